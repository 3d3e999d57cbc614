/// Recording at every token reads the neurons of a circuit all along each prompt.
///
///   record_tokens(model, prompts, circuit, options, sink)     sink(prompt, [tokens, neurons])
///
/// Neurons come in the circuit's order. Prompts stream by, so memory does not grow with their
/// number; every token is computed, whatever prompts have in common.
#pragma once

#include <functional>
#include <span>

#include "cna/circuit.hpp"
#include "cna/export.hpp"
#include "cna/torch/model.hpp"
#include "cna/torch/tokens.hpp"

namespace cna {

/// Takes one prompt: its number and its activations [tokens, neurons], float32, on the CPU.
using TokenSink = std::function<void(int64_t prompt, const at::Tensor& activations)>;

/// Streams the activations of a circuit's neurons at every token of every prompt to `sink`.
/// @throws ValueError for bad prompts, or an empty circuit or one of another shape; NonFinite,
///         naming the prompt, for NaN or infinity.
CNA_API void record_tokens(Model& model, std::span<const TokenIds> prompts, const Circuit& circuit,
                           const RunOptions& options, const TokenSink& sink);

}  // namespace cna
