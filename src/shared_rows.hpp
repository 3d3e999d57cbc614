/// Which rows of a job can share what they compute. Private to the library.
///
/// Arms share the layers below their first edit, sequences the tokens that they open with: those of
/// all of them once, and those of a few, such as a question before each of its choices, once too.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "cna/torch/model.hpp"
#include "cna/torch/tokens.hpp"

namespace cna {

/// A job whose sequences are each scored under the same arms.
struct SharedRows {
  std::vector<int64_t> arms;               ///< where there are several, the first edits nothing
  std::vector<std::vector<int64_t>> rows;  ///< [sequence][arm], rows of the job
};

/// The job of such rows, if it is one: rows of equal tokens and ends are one sequence.
/// @param ends  tokens of each row that are its prompt.
[[nodiscard]] std::optional<SharedRows> shared_rows(std::span<const TokenIds> sequences,
                                                    std::span<const int64_t> ends,
                                                    const RunOptions& options, int64_t layers);

/// Sequences that pass together. Their tokens up to the last of their prompts are openings,
/// computed first and once each, where `openings` is not empty; they end at different places then.
/// Else all are equally long, and so are their prompts.
struct SequenceGroup {
  std::vector<size_t> sequences;  ///< in SharedRows::rows
  std::vector<size_t> openings;   ///< a sequence of each, all equally long
  std::vector<int64_t> opening;   ///< of each sequence, in `openings`
};

/// How sequences are cut into groups.
struct GroupLimits {
  int64_t prefix = 0;     ///< tokens that all sequences begin with, computed apart
  int64_t sequences = 1;  ///< that pass together
  int64_t tokens = 640;   ///< of them, or of their openings
  bool openings = false;  ///< whether sequences of one prompt share it
};

[[nodiscard]] std::vector<SequenceGroup> group_sequences(const SharedRows& shared,
                                                         std::span<const TokenIds> sequences,
                                                         std::span<const int64_t> ends,
                                                         const GroupLimits& limits);

}  // namespace cna
