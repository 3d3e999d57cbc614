/// What a norm behind the MLP makes of a write: its mean scale, recorded beside other things.
#pragma once

#include <ATen/ATen.h>

#include <span>
#include <utility>
#include <vector>

#include "cna/torch/recorder.hpp"

namespace cna {

/// Mean over all prompts of one number per layer, which `Of` reads off its activations: [rows,
/// features] in float64 -> [rows].
template <class Of>
class LayerMean {
 public:
  LayerMean(int64_t layers, Of of) : of_(std::move(of)), sums_(static_cast<size_t>(layers)) {}
  void add(int64_t layer, std::span<const int64_t> prompts, const at::Tensor& activations) {
    at::Tensor& sum = sums_[static_cast<size_t>(layer)];
    const at::Tensor mine = of_(activations.to(at::kDouble)).sum();
    sum = sum.defined() ? sum + mine : mine;
    if (layer == 0) count_ += static_cast<int64_t>(prompts.size());
  }
  void end_batch() {}
  /// float64 [layers]
  [[nodiscard]] at::Tensor mean() const { return at::stack(sums_) / static_cast<double>(count_); }

 private:
  Of of_;
  std::vector<at::Tensor> sums_;
  int64_t count_ = 0;
};

/// Whether a norm stands behind each layer's MLP.
/// @throws Error where the host does not know its weights, before anything is run.
[[nodiscard]] inline bool has_post_norm(Model& model, const char* function) {
  const Model::Turn turn = model.take_turn(function);
  int64_t first = 0;  // with an MLP
  while (model.shape().width_of(first) == 0) ++first;
  return model.host().write(first).gain.defined();
}

/// Records `feeds`, and where a norm stands behind the MLP its mean scale, float64 [layers]; else
/// what comes back is undefined.
template <class... Feeds>
[[nodiscard]] at::Tensor record_scaled(Model& model, std::span<const TokenIds> prompts,
                                       const RunOptions& options, bool normed, Feeds... feeds) {
  if (!normed) {
    record(model, prompts, options, feeds...);
    return {};
  }
  // 1 / rms of the MLP's output: what an RMS norm multiplies it with.
  LayerMean scale(model.shape().layers,
                  [](const at::Tensor& y) { return y.square().mean(-1).rsqrt(); });
  record(model, prompts, options, feeds..., at<Site::mlp_output>(scale));
  return scale.mean();
}

}  // namespace cna
