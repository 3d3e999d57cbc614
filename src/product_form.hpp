/// In which form a CPU multiplies by the weights of linear layers. Private to the library.
#pragma once

#include <ATen/core/Tensor.h>

#include <vector>

#include "cna/torch/host.hpp"

namespace cna {

/// Whether weights of this kind can be multiplied in a form.
[[nodiscard]] bool has_form(ProductForm form, const at::Tensor& weight);

/// The form that this machine is fastest in, by products of 32 rows with some of the weights
/// [out, in], 32 MiB of them. A form before another in packed, weights_first, plain
/// stays where the other takes more than three quarters of its time: noise must not choose, since
/// forms differ in last bits. Takes 0.1 to 0.3 s; weights of a few MiB, which gain nothing, are not
/// measured.
[[nodiscard]] ProductForm fastest_form(const std::vector<at::Tensor>& weights);

}  // namespace cna
