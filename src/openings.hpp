/// What prompts open with, beyond what all of them do. Private to the library.
///
/// A job shares the tokens that all its prompts begin with. Where some share more, as the blocks of
/// a few-shot quiz or templates of several kinds do, they make up a job of their own.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "cna/torch/tokens.hpp"

namespace cna {

/// The numbers of the prompts of each part, ascending; one part where no cut is less work.
/// @param overhead  what a further pass costs, in tokens: a part of its own has two.
[[nodiscard]] std::vector<std::vector<int64_t>> parts_by_opening(std::span<const TokenIds> prompts,
                                                                 int64_t overhead);

}  // namespace cna
