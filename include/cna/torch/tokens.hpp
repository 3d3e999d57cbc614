/// Prompts as token ids: unpadding, the prefix they share, and batches.
///
///   prompt = common prefix (computed once) + its own suffix (at least one token)
///
/// A batch is padded in front of the prefix, so that a row's tokens lie side by side as in the
/// prompt alone (models that count places would see a gap), and the last token of every row is the
/// newest:
///
///   longest   [ prefix       ][ suffix      ]
///   shorter   [ pad ][ prefix       ][ suff ]
///
/// The shorter row's keys and values of the prefix begin behind its padding; the prefix tokens that
/// no longer fit there stand among the new ones, where padding would be, and are computed again.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <span>
#include <vector>

#include "cna/export.hpp"

namespace cna {

/// The tokens of one prompt, without padding.
using TokenIds = std::vector<int64_t>;

/// Rows of ids [rows, tokens] where mask [rows, tokens] is 1; padding may lie on either side.
/// @throws ValueError for unequal shapes, holes in a row, or rows without a real token.
[[nodiscard]] CNA_API std::vector<TokenIds> unpad(const at::Tensor& ids, const at::Tensor& mask);

/// Length of the longest prefix common to all prompts that leaves each one token of its own.
[[nodiscard]] CNA_API int64_t common_prefix(std::span<const TokenIds> prompts);

/// Some rows of a job, left-padded, with what a Step needs. All tensors int64.
struct Batch {
  std::vector<int64_t> rows;  ///< which prompts, in the order of the batch
  at::Tensor ids;             ///< [rows, new]
  at::Tensor mask;            ///< [rows, prefix + new]
  at::Tensor positions;       ///< [rows, new]
};

struct BatchLimits {
  int64_t rows = 64;      ///< at most so many rows
  int64_t tokens = 4096;  ///< and so many suffix tokens, padding included
  /// What a further batch costs, in tokens; the cut then minimises padding plus this. 0: as few
  /// batches as the limits allow, for generation, where rows stay together for many steps.
  int64_t overhead = 0;
  /// Tokens that may have keys and values at once, those of the shared prefix and of the answers
  /// counted in every row; one row always fits. 0: no limit.
  int64_t places = 0;
  int64_t room = 0;     ///< tokens that will follow each prompt
  bool padding = true;  ///< false: only prompts of equal length share a batch
};

/// Cuts prompts into batches of similar length behind `prefix` shared tokens.
[[nodiscard]] CNA_API std::vector<Batch> make_batches(std::span<const TokenIds> prompts,
                                                      int64_t prefix, const BatchLimits& limits,
                                                      c10::Device device);

/// Throws ValueError for an empty list, an empty prompt, an id outside the vocabulary (when it is
/// known) or a prompt that with `room` more tokens exceeds `max_positions` (0: unbounded).
CNA_API void require_prompts(const char* function, std::span<const TokenIds> prompts, int64_t vocab,
                             int64_t max_positions, int64_t room = 0);

}  // namespace cna
