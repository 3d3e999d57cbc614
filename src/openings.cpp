#include "openings.hpp"

#include <algorithm>
#include <numeric>
#include <utility>

namespace cna {
namespace {

int64_t alike(const TokenIds& a, const TokenIds& b) {
  const size_t n = std::min(a.size(), b.size());
  return std::mismatch(a.begin(), a.begin() + static_cast<int64_t>(n), b.begin()).first - a.begin();
}

/// Prompts in the order of their tokens, cut where fewest tokens are alike: a tree of openings.
class Tree {
 public:
  Tree(std::span<const TokenIds> prompts, int64_t overhead)
      : prompts_(prompts), overhead_(overhead), order_(prompts.size()), alike_(prompts.size(), 0) {
    std::iota(order_.begin(), order_.end(), int64_t{0});
    std::stable_sort(order_.begin(), order_.end(),
                     [&](int64_t a, int64_t b) { return at(a) < at(b); });
    for (size_t i = 1; i < order_.size(); ++i) alike_[i] = alike(at(order_[i - 1]), at(order_[i]));
  }

  std::vector<std::vector<int64_t>> parts() {
    (void)cut(0, order_.size());
    for (auto& part : parts_) std::sort(part.begin(), part.end());
    std::sort(parts_.begin(), parts_.end());
    return std::move(parts_);
  }

 private:
  [[nodiscard]] const TokenIds& at(int64_t row) const { return prompts_[static_cast<size_t>(row)]; }

  /// What the prompts from `first` to `end` cost as parts, in tokens; the parts are added.
  int64_t cut(size_t first, size_t end) {
    // The opening leaves each prompt a token of its own.
    int64_t opening = static_cast<int64_t>(at(order_[first]).size()) - 1;
    for (size_t i = first + 1; i < end; ++i)
      opening = std::min({opening, alike_[i], static_cast<int64_t>(at(order_[i]).size()) - 1});
    std::vector<int64_t> rest;
    int64_t cost = opening + 2 * overhead_;
    for (size_t from = first; from < end;) {
      size_t to = from + 1;
      while (to < end && alike_[to] > opening) ++to;
      int64_t here = 0;  // what this branch costs in the part of all
      for (size_t i = from; i < to; ++i)
        here += static_cast<int64_t>(at(order_[i]).size()) - opening;
      const size_t known = parts_.size();
      const bool branches = to - from > 1 && to - from < end - first;
      const int64_t apart = branches ? cut(from, to) : here;
      if (apart < here) {
        cost += apart;
      } else {
        parts_.resize(known);
        cost += here;
        rest.insert(rest.end(), order_.begin() + static_cast<int64_t>(from),
                    order_.begin() + static_cast<int64_t>(to));
      }
      from = to;
    }
    if (rest.empty()) return cost - opening - 2 * overhead_;  // nothing passes here
    parts_.push_back(std::move(rest));
    return cost;
  }

  std::span<const TokenIds> prompts_;
  int64_t overhead_;
  std::vector<int64_t> order_;  // of the prompts by their tokens
  std::vector<int64_t> alike_;  // tokens that one begins with as the one before it does
  std::vector<std::vector<int64_t>> parts_;
};

}  // namespace

std::vector<std::vector<int64_t>> parts_by_opening(std::span<const TokenIds> prompts,
                                                   int64_t overhead) {
  return prompts.empty() ? std::vector<std::vector<int64_t>>{} : Tree(prompts, overhead).parts();
}

}  // namespace cna
