/// Scoring reads the model's probabilities of given continuations, steered per row.
///
///   log p(continuation | prompt) = sum over its tokens of log softmax(logits)
///   KL(reference || arm)         = mean over its tokens of sum_v p_ref(v) (log p_ref - log p_arm)
///
/// One pass per row, no generation: every token is seen with the given ones before it.
#pragma once

#include <span>

#include "cna/torch/model.hpp"
#include "cna/torch/tokens.hpp"

namespace cna {

/// Sum of log probabilities of each continuation, in nats, float64 [rows].
/// @throws ValueError if a continuation is empty or the lists differ in length; NonFinite, with
///         prompt and token, where the logits overflowed.
[[nodiscard]] CNA_API at::Tensor log_likelihood(Model& model, std::span<const TokenIds> prompts,
                                                std::span<const TokenIds> continuations,
                                                const RunOptions& options = {});

/// What each arm does to the model's predictions along given continuations.
struct Divergence {
  at::Tensor kl;  ///< float64 [arms, prompts], mean nats per token; arm 0 is the reference
  at::Tensor log_likelihood;  ///< float64 [arms, prompts], sum over the continuation
};

/// Compares every arm of `options.intervention` with its arm 0; `arm_of_prompt` is not used.
[[nodiscard]] CNA_API Divergence divergence(Model& model, std::span<const TokenIds> prompts,
                                            std::span<const TokenIds> continuations,
                                            const RunOptions& options);

/// KL(reference || other) along the same continuations, mean nats per token, float64 [prompts]:
/// what other prompts do to the predictions, for instance an instruction before each. The reference
/// follows arm 0 of `options.intervention`, the other its last arm; `arm_of_prompt` is not used.
[[nodiscard]] CNA_API at::Tensor prompt_divergence(Model& model, std::span<const TokenIds> prompts,
                                                   std::span<const TokenIds> other_prompts,
                                                   std::span<const TokenIds> continuations,
                                                   const RunOptions& options = {});

}  // namespace cna
