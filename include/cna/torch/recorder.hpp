/// Recording reads activations at the last token of each prompt, batch by batch.
///
///   activations [prompts, layers, features], float32; neurons as they enter the down projection
///
/// Batches stream to a sink, so memory does not grow with the number of prompts.
#pragma once

#include <functional>
#include <span>

#include "cna/torch/model.hpp"

namespace cna {

/// Takes one batch: the prompts' numbers and their activations [rows, layers, features], float32,
/// on the model's device.
using RecordSink =
    std::function<void(std::span<const int64_t> rows, const at::Tensor& activations)>;

/// Streams the last token's activations of every prompt to `sink`; they are inference tensors, so
/// copy them before changing them.
/// @throws ValueError for bad prompts; Error naming prompt and layer for NaN or infinity.
void record(Model& model, std::span<const TokenIds> prompts, Site site, const RunOptions& options,
            const RecordSink& sink);

/// All of them at once, on the CPU: [prompts, layers, features], float32.
at::Tensor record_all(Model& model, std::span<const TokenIds> prompts, Site site,
                      const RunOptions& options = {});

}  // namespace cna
