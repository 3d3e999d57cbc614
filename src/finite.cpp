#include "finite.hpp"

#include <ATen/ATen.h>

#include "cna/error.hpp"

namespace cna {

at::Tensor meaningless(const at::Tensor& logits) {
  const auto [low, high] = at::aminmax(logits, -1);
  const at::Tensor finite = high.isfinite();  // also false where any logit is NaN
  return logits.size(-1) > 1 ? finite.logical_not().logical_or_(low.eq(high))
                             : finite.logical_not();
}

void throw_meaningless(const char* function, int64_t prompt, int64_t step) {
  throw_as<NonFinite>(
      "{}: expected finite logits that tell tokens apart, got an overflow in prompt {} at answer "
      "token {}; use a smaller strength, or a wider dtype (float32 or bfloat16)",
      function, prompt, step);
}

}  // namespace cna
