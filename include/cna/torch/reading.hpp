/// A linear reading of neurons: what each adds to the logits for one unit of its activation.
///
///   logits_written = unembedding (gain * (write - its mean, where the final norm centres))
///
/// The final norm's division and the layers in between are left out, so the later a neuron's layer,
/// the closer the reading.
#pragma once

#include <ATen/core/Tensor.h>

#include "cna/circuit.hpp"
#include "cna/export.hpp"
#include "cna/torch/model.hpp"

namespace cna {

/// Of each neuron of a circuit, in its order: float32 [neurons, vocab], on the CPU.
/// @throws ValueError for a circuit of another shape; Error for a host that does not know its
///         weights, see cna/torch/readout.hpp.
[[nodiscard]] CNA_API at::Tensor logits_written(Model& model, const Circuit& circuit);

}  // namespace cna
