/// Logits that mean nothing, found on the device and read with the numbers that go there anyway.
///
/// An overflow shows as NaN or infinity; where a normalisation hid it (1 / rms of infinity is 0),
/// all logits of a token are equal. Minus infinity alone is a masked token, and fine.
#pragma once

#include <ATen/core/Tensor.h>

#include <optional>

namespace cna {

/// True where the logits [..., vocab] are not finite or all equal; bool [...].
[[nodiscard]] at::Tensor meaningless(const at::Tensor& logits);

/// The same of logits or log probabilities, where `broken` [...] says already in which rows the
/// largest logit is not finite.
[[nodiscard]] at::Tensor meaningless(const at::Tensor& scores, const at::Tensor& broken);

/// Throws NonFinite; `step` counts the tokens of the answer from 0.
[[noreturn]] void throw_meaningless(const char* function, int64_t prompt, int64_t step,
                                    std::optional<int64_t> arm = std::nullopt);

}  // namespace cna
