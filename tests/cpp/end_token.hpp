/// An end token for answers of LiveModel, so that rows end at different steps.
#pragma once

#include <algorithm>
#include <set>
#include <vector>

#include "catch.hpp"
#include "live_model.hpp"

namespace cna::test {

/// The end token that lets answers end at the most different steps, `least` of them or more.
inline int64_t end_token(const std::vector<TokenIds>& answers, size_t least = 4) {
  int64_t best = 0;
  size_t most = 0;
  for (int64_t token = 0; token < LiveModel::kVocab; ++token) {
    std::set<int64_t> lengths;
    for (const TokenIds& answer : answers)
      lengths.insert(std::find(answer.begin(), answer.end(), token) - answer.begin());
    if (lengths.size() > most) most = lengths.size(), best = token;
  }
  REQUIRE(most >= least);
  return best;
}

}  // namespace cna::test
