/// Two sets of prompts as one job, so that both share their common prefix.
#pragma once

#include <span>
#include <vector>

#include "cna/error.hpp"
#include "cna/torch/tokens.hpp"

namespace cna {

struct TwoSets {
  std::vector<TokenIds> prompts;     ///< positive, then negative
  std::vector<int> group_of_prompt;  ///< 0 or 1
  size_t positive, negative;         ///< how many

  /// @throws ValueError for an empty set.
  TwoSets(const char* function, std::span<const TokenIds> first, std::span<const TokenIds> second)
      : prompts(first.begin(), first.end()),
        group_of_prompt(first.size(), 0),
        positive(first.size()),
        negative(second.size()) {
    if (first.empty() || second.empty()) {
      throw_value_error(
          "{}: expected prompts in both sets, got {} positive and {} negative; pass "
          "at least one of each",
          function, positive, negative);
    }
    prompts.insert(prompts.end(), second.begin(), second.end());
    group_of_prompt.resize(prompts.size(), 1);
  }
};

}  // namespace cna
