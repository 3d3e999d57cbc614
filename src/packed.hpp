/// Weights of linear layers in the layout that oneDNN multiplies fastest. Private to the library.
///
/// A product of few rows spends its time on reading the weight, and a plain one rearranges it anew
/// in each call. Packed once, 210 products of SmolLM2-135M take 29 ms for 16 rows (before: 94), 83
/// for 64 (140) and 675 for 640 (985). Sums are added in another order: last bits differ.
#pragma once

#include <ATen/core/Tensor.h>

#include <optional>

#include "cna/torch/host.hpp"

namespace cna {

/// Whether this LibTorch has oneDNN, and the weight [out, in] is of a kind that it packs: float32
/// on a CPU.
[[nodiscard]] bool can_pack(const at::Tensor& weight);

/// Whether this processor multiplies so.
[[nodiscard]] bool can_multiply(Precision precision);

/// An opaque copy of a weight, [out, in].
[[nodiscard]] at::Tensor pack(const at::Tensor& weight, Precision precision);

/// x [..., in] times a packed weight [out, in], plus the bias [out].
[[nodiscard]] at::Tensor packed_linear(const at::Tensor& x, const at::Tensor& weight,
                                       const std::optional<at::Tensor>& bias);

/// The weight itself in float32, whether it is packed or not; bit for bit as it was, or rounded to
/// bfloat16 where it was packed so.
[[nodiscard]] at::Tensor unpack(const at::Tensor& weight);

}  // namespace cna
