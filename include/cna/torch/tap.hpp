/// A tap is an identity operator placed on an activation of the model; it can record and edit it.
///
/// `cna::tap(x, taps, slot)` returns x itself until a pass asks for more. Everything a tap knows
/// lives in the `Taps` object that the model passes in, so two models never meet. Compiled graphs
/// take tensors only: their `cna::tap_(x, slot)` edits x in place, for the `TapScope` of its
/// thread. Activations are [rows, tokens, features]; rows are prompts, the last token is the
/// newest.
#pragma once

#include <ATen/core/Tensor.h>
#include <torch/custom_class.h>

#include <cstdint>
#include <exception>
#include <functional>
#include <optional>
#include <vector>

namespace cna {

/// Where in a layer an activation is tapped.
enum class Site : int {
  neuron = 0,      ///< input of the MLP's down projection, [rows, tokens, width]
  mlp_output = 1,  ///< output of the down projection, [rows, tokens, hidden]
  residual = 2,    ///< residual stream after the layer, [rows, tokens, hidden]
};
inline constexpr int kSites = 3;

/// Name of a site in messages and in Python: "neuron", "mlp_output", "residual".
const char* site_name(Site site);

/// What one tap does to the pass under way: a <- scale * a + shift. Undefined tensors mean 1 and 0.
struct TapEdit {
  at::Tensor scale;  ///< [rows or 1, 1, features]
  at::Tensor shift;  ///< [rows or 1, 1, features]
};

/// The features of a layer that this process holds, where several processes share the layer
/// (tensor parallelism): edits are cut to them, recordings are made whole.
struct TapShard {
  int64_t first = 0;  ///< place of the part's first feature in the layer
  /// [rows, part] -> [rows, features]; all processes call it at the same tap.
  std::function<at::Tensor(const at::Tensor&)> gather;
};

/// The taps of one model: what to record, what to edit, and when to stop.
class Taps : public ::torch::CustomClassHolder {
 public:
  explicit Taps(int64_t layers = 0);

  int64_t layers() const { return layers_; }
  int64_t slot(Site site, int64_t layer) const {
    return static_cast<int64_t>(site) * layers_ + layer;
  }

  /// Runs at each tap: polls for a stop, applies the edit, records the last token's activation.
  /// With `shard`, x holds only these of the layer's features.
  at::Tensor apply(const at::Tensor& x, int64_t slot, const TapShard* shard = nullptr);

  /// Records `site` from now on; `std::nullopt` records nothing.
  void record(std::optional<Site> site);
  /// Recorded last-token activations by layer, each [rows, features]; hands them over.
  std::vector<at::Tensor> take_recorded();

  /// Edits of the next passes, by slot. An empty vector edits nothing.
  void set_edits(std::vector<TapEdit> edits) { edits_ = std::move(edits); }

  /// Called at every tap; throws to stop the pass (for example on Ctrl-C).
  std::function<void()> poll;
  /// The exception that stopped a pass: the interpreter in between would lose its type.
  std::exception_ptr stopped;

 private:
  int64_t layers_;
  std::optional<Site> recording_;
  std::vector<at::Tensor> recorded_;
  std::vector<TapEdit> edits_;
};

/// While it lives, `cna::tap_` on this thread belongs to `taps`; scopes nest.
class TapScope {
 public:
  explicit TapScope(Taps& taps);
  ~TapScope();
  TapScope(const TapScope&) = delete;
  TapScope& operator=(const TapScope&) = delete;

 private:
  Taps* before_;
};

}  // namespace cna
