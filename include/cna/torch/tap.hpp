/// A tap is an identity operator placed on an activation of the model; it can record and edit it.
///
/// `cna::tap(x, taps, slot)` returns x itself until a pass asks for more. Everything a tap knows
/// lives in the `Taps` object that the model passes in, so two models never meet. `cna::tap_part`
/// is the same for one of several parts of a layer. Compiled graphs take tensors only: their
/// `cna::tap_(x, slot)` edits x in place, for the `TapScope` of its thread. Activations are [rows,
/// tokens, features]; rows are prompts, the last token is the newest. The operators and the
/// TorchScript class around Taps stand in src/tap_operators.cpp.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <exception>
#include <functional>
#include <map>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "cna/export.hpp"
#include "cna/torch/step.hpp"

namespace cna {

/// What one tap does to the pass under way: a <- scale * a + shift. Undefined tensors mean 1 and 0.
struct TapEdit {
  int64_t slot = 0;
  at::Tensor scale;  ///< [rows or 1, 1, features]
  at::Tensor shift;  ///< [rows or 1, 1, features]
  /// Acts on the last so many tokens of the prompt and on all behind them; 0: on every token.
  int64_t last = 0;

  /// The edit of some rows, in that order: [rows], int64, on the edit's device. Nothing is
  /// uploaded.
  [[nodiscard]] CNA_API TapEdit select(const at::Tensor& rows) const;
};

/// The features of a layer that a tap sees, where several processes share the layer (tensor
/// parallelism) or several modules of one process do (experts, and what stands beside them): edits
/// are cut to them, recordings are made whole.
struct TapShard {
  int64_t first = 0;  ///< place of the part's first feature in the layer
  /// [rows, part] -> [rows, features]; all processes call it at the same tap. None: the parts of
  /// this process are put together here.
  std::function<at::Tensor(const at::Tensor&)> gather = {};
  int64_t features = 0;  ///< of the whole layer, where there is no `gather`
  at::Tensor idle = {};  ///< bool, broadcast to x: what does not run stays 0, whatever an edit adds
};

/// The taps of one model: what to record and to follow, what to edit, and when to stop.
class CNA_API Taps : public std::enable_shared_from_this<Taps> {
 public:
  explicit Taps(int64_t layers = 0) : layers_(layers) {}

  [[nodiscard]] int64_t layers() const { return layers_; }
  [[nodiscard]] int64_t slot(Site site, int64_t layer) const {
    return static_cast<int64_t>(site) * layers_ + layer;
  }

  /// Runs at each tap: polls for a stop, applies the edit, records the last token's activation.
  /// With `shard`, x holds only these of the layer's features.
  /// @throws IndexError for a slot that the model does not have.
  at::Tensor apply(const at::Tensor& x, int64_t slot, const TapShard* shard = nullptr);

  /// Records these sites from now on; none: records nothing.
  void record(std::span<const Site> sites);
  /// Recorded last-token activations by slot, each [rows, features], undefined where nothing was
  /// recorded; hands them over.
  [[nodiscard]] std::vector<at::Tensor> take_recorded();

  /// Keeps these neurons of a layer, int64 indices by layer, at every token of the next steps;
  /// none: keeps nothing.
  void follow(const std::map<int64_t, std::vector<int64_t>>& neurons);
  /// What the last step kept of them, by layer, [rows, tokens, neurons]; hands it over.
  [[nodiscard]] std::map<int64_t, at::Tensor> take_followed();

  /// A step of these token ids, [rows, new], begins: nothing is recorded of it yet, and activations
  /// may come flat, [rows * new, features].
  void begin_step(const at::Tensor& ids);

  /// Edits of the next passes; those of one slot act in their order. None: edits nothing.
  void set_edits(std::vector<TapEdit> edits);

  /// Whether the next pass records or edits at this tap.
  [[nodiscard]] bool watches(int64_t slot) const;

  /// Where the tokens of the next passes stand, int64 [rows, new]: 1 is the prompt's last token, 2
  /// the one before, 0 and less the answer. Undefined: all behind the prompt.
  void set_places(at::Tensor from_end);

  /// In the next passes, at these residual taps so many copies of the first `rows` rows join the
  /// others, before the tap's edits; {slot: copies}. Edits are of all rows: of those that are
  /// there, the first count. None: rows stay as they are.
  void widen(std::map<int64_t, int64_t> copies, int64_t rows);

  /// Called at every tap; throws to stop the pass (for example on Ctrl-C).
  std::function<void()> poll;
  /// The exception that stopped a pass: the interpreter in between would lose its type.
  std::exception_ptr stopped;

 private:
  int64_t layers_, rows_ = 0, tokens_ = 0;
  bool recording_[kSites] = {};
  std::vector<at::Tensor> recorded_;
  std::vector<std::vector<TapEdit>> edits_;  // by slot
  struct Followed {
    at::Tensor index;  // int64, on the layer's device
    at::Tensor kept;   // [rows, tokens, neurons]
  };
  std::map<int64_t, Followed> followed_;  // by layer
  at::Tensor places_;
  std::map<int64_t, int64_t> joining_;  // copies by slot
  int64_t joined_rows_ = 0;
  std::map<int64_t, at::Tensor> chosen_;  // by `last`, bool [rows, new, 1]

  void keep(Followed& what, const at::Tensor& x, const TapShard* shard) const;
  [[nodiscard]] at::Tensor edited(const at::Tensor& x, TapEdit& edit, const TapShard* shard);
};

/// While it lives, `cna::tap_` on this thread belongs to `taps`; scopes nest.
class CNA_API TapScope {
 public:
  explicit TapScope(Taps& taps);
  ~TapScope();
  TapScope(const TapScope&) = delete;
  TapScope& operator=(const TapScope&) = delete;

 private:
  Taps* before_;
};

}  // namespace cna
