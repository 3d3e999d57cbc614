/// What a norm behind the MLP makes of a write: its mean scale, recorded beside other things.
#pragma once

#include <ATen/ATen.h>

#include <optional>
#include <vector>

#include "cna/torch/recorder.hpp"

namespace cna {

/// Mean over all prompts of 1 / rms of each layer's MLP output.
class InverseScale {
 public:
  explicit InverseScale(int64_t layers) : sums_(static_cast<size_t>(layers)) {}
  void add(int64_t layer, std::span<const int64_t> prompts, const at::Tensor& outputs) {
    at::Tensor& sum = sums_[static_cast<size_t>(layer)];
    const at::Tensor mine = outputs.to(at::kDouble).square().mean(-1).rsqrt().sum();
    sum = sum.defined() ? sum + mine : mine;
    if (layer == 0) count_ += static_cast<int64_t>(prompts.size());
  }
  void end_batch() {}
  [[nodiscard]] at::Tensor mean() const { return at::stack(sums_) / static_cast<double>(count_); }

 private:
  std::vector<at::Tensor> sums_;
  int64_t count_ = 0;
};

/// Whether a norm stands behind each layer's MLP.
/// @throws Error where the host does not know its weights, before anything is run.
[[nodiscard]] inline bool has_post_norm(Model& model, const char* function) {
  const Model::Turn turn = model.take_turn(function);
  return model.host().write(0).gain.defined();
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
  InverseScale scale(model.shape().layers);
  record(model, prompts, options, feeds..., at<Site::mlp_output>(scale));
  return scale.mean();
}

}  // namespace cna
