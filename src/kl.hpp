/// The divergence of a steered row's predictions from those of a reference. Private to the library.
#pragma once

#include <ATen/core/Tensor.h>

namespace cna {

/// What a row is compared with: log probabilities [tokens, vocab], float32, and their exponentials,
/// which every arm needs.
struct Reference {
  at::Tensor log_p, p;

  static Reference of(const at::Tensor& log_p);
};

/// Mean over tokens of KL(reference || row), nats, float64 []; `log_p` [tokens, vocab] of the row.
/// A token without probability in both adds nothing.
[[nodiscard]] at::Tensor kl_of(const Reference& reference, const at::Tensor& log_p);

}  // namespace cna
