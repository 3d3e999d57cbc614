/// How many rows and tokens a batch has where the caller set nothing, by the device it runs on.
#pragma once

#include "cna/torch/model.hpp"
#include "cna/torch/tokens.hpp"

namespace cna {

/// Limits for `make_batches`.
/// @param room  tokens that will follow each prompt; above 0, rows stay together for many steps.
[[nodiscard]] BatchLimits batch_limits(const ModelInfo& model, const RunOptions& options,
                                       int64_t room);

/// Tokens of prompts that a step reads best where answers follow them; 0: all there are.
[[nodiscard]] int64_t prefill_tokens(const ModelInfo& model, const RunOptions& options);

}  // namespace cna
