#include "finite.hpp"

#include <ATen/ATen.h>

#include <algorithm>

#include "cna/error.hpp"

namespace cna {

namespace {

/// Whether all numbers of a row are equal, bool [...]. A row of floats in memory is left at its
/// first difference, which is the second number of nearly every one.
at::Tensor all_equal(const at::Tensor& scores) {
  const int64_t n = scores.size(-1);
  if (!scores.device().is_cpu() || scores.scalar_type() != at::kFloat || !scores.is_contiguous()) {
    const auto [low, high] = at::aminmax(scores, -1);
    return low.eq(high);
  }
  at::Tensor out = at::empty(scores.sizes().slice(0, scores.dim() - 1), at::kBool);
  bool* equal = out.mutable_data_ptr<bool>();
  const float* row = scores.const_data_ptr<float>();
  for (int64_t i = 0; i < out.numel(); ++i, row += n)
    equal[i] = std::all_of(row + 1, row + n, [row](float x) { return x == row[0]; });
  return out;
}

}  // namespace

at::Tensor meaningless(const at::Tensor& logits) {
  return meaningless(logits, logits.amax(-1).isfinite().logical_not());
}

at::Tensor meaningless(const at::Tensor& scores, const at::Tensor& broken) {
  return scores.size(-1) > 1 ? broken.logical_or(all_equal(scores)) : broken;
}

void throw_meaningless(const char* function, int64_t prompt, int64_t step,
                       std::optional<int64_t> arm) {
  throw NonFinite(
      fmt::format(
          "{}: expected finite logits that tell tokens apart, got an overflow{} in prompt {} at "
          "answer token {}; use a smaller strength, or a wider dtype (float32 or bfloat16)",
          function, arm ? fmt::format(" of arm {}", *arm) : "", prompt, step),
      prompt, step);
}

}  // namespace cna
