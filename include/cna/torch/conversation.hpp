/// A conversation: a prompt that grows turn by turn, on the keys and values of its earlier turns.
///
///   first turn    [ prompt          ] -> answer
///   second turn   [ prompt | answer | more ] -> answer      only `more` is computed
///
/// What a prompt shares with the tokens so far is not computed again, so its answer is that of the
/// whole prompt alone. Steering acts on what is computed: tokens of earlier turns keep the keys and
/// values of the steering that they ran under.
#pragma once

#include <ATen/core/Tensor.h>

#include <memory>
#include <vector>

#include "cna/export.hpp"
#include "cna/torch/generate.hpp"
#include "cna/torch/model.hpp"
#include "cna/torch/tokens.hpp"

namespace cna {

class CNA_API Conversation {
 public:
  /// @param model  must outlive the conversation.
  explicit Conversation(Model& model) : model_(&model) {}

  /// The answer to a whole prompt, without the end token; options of one prompt.
  /// @throws as `generate`; ValueError for steering of the answer alone on a host that runs whole
  ///         prompts, which could not tell earlier answers from what was asked.
  [[nodiscard]] TokenIds answer(const TokenIds& prompt, const GenerateOptions& generation,
                                const RunOptions& options = {});

  /// Tokens whose keys and values are held.
  [[nodiscard]] const TokenIds& tokens() const { return tokens_; }
  /// Tokens of the last prompt that were not computed again.
  [[nodiscard]] int64_t reused() const { return reused_; }
  /// Forgets all turns.
  void clear();

 private:
  Model* model_;
  TokenIds tokens_;
  std::vector<at::Tensor> cache_;  // of all layers, [1, heads, places, dim], tokens_.size() filled
  int64_t reused_ = 0;
};

}  // namespace cna
