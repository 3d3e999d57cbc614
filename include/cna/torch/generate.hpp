/// Batched generation with a key/value cache, greedy or sampled, steered per row.
///
/// Rows that meet an end token leave the batch, and waiting rows take their places; a row's answer
/// does not depend on its neighbours.
/// next ~ softmax(logits / temperature) over the top_k tokens and the smallest set with mass top_p.
#pragma once

#include <functional>
#include <span>
#include <vector>

#include "cna/torch/model.hpp"
#include "cna/torch/tokens.hpp"

namespace cna {

struct GenerateOptions {
  int64_t max_new_tokens = 64;
  double temperature = 0.0;  ///< 0: greedy
  int64_t top_k = 0;         ///< 0: all tokens
  double top_p = 1.0;        ///< 1: all tokens
  uint64_t seed = 0;         ///< each prompt draws from its own stream: seed and prompt number
  std::vector<int64_t> eos_ids = {};  ///< empty: the model's own
  bool ignore_eos = false;            ///< always generate max_new_tokens
  /// Called with each token of an answer as it is written; what it throws ends the run.
  std::function<void(int64_t prompt, int64_t token)> on_token = {};
  /// Called with each answer as it is finished; what it throws ends the run.
  std::function<void(int64_t prompt, const TokenIds& answer)> on_answer = {};
  int64_t first_prompt = 0;  ///< number of the first prompt, where these are a part of a list
};

class Watch;

/// Answers as token ids, without the prompt and without the end token, in the order of the prompts.
/// @param watch  reads a gate's score at every token (watch.hpp); null: none
/// @throws ValueError for bad prompts or options; NonFinite, with prompt and answer token, where
///         the logits overflowed.
[[nodiscard]] CNA_API std::vector<TokenIds> generate(Model& model,
                                                     std::span<const TokenIds> prompts,
                                                     const GenerateOptions& generation,
                                                     const RunOptions& options = {},
                                                     Watch* watch = nullptr);

/// Logits [prompts, vocab] behind the last token of each prompt, float32, on the CPU.
/// @throws NonFinite where they overflowed.
[[nodiscard]] CNA_API at::Tensor last_logits(Model& model, std::span<const TokenIds> prompts,
                                             const RunOptions& options = {});

}  // namespace cna
