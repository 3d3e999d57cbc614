#include "shared_rows.hpp"

#include <algorithm>
#include <map>
#include <utility>

#include "cna/torch/intervention.hpp"

namespace cna {
namespace {

/// What a group's sequences have to have in common, without openings: length and prompt's length.
using Kind = std::pair<size_t, int64_t>;

class Grouping {
 public:
  Grouping(const SharedRows& shared, std::span<const TokenIds> sequences,
           std::span<const int64_t> ends, const GroupLimits& limits)
      : shared_(shared), sequences_(sequences), ends_(ends), limits_(limits) {}

  std::vector<SequenceGroup> groups() {
    std::vector<size_t> single;
    std::map<TokenIds, std::vector<size_t>> by_prompt;
    for (size_t i = 0; i < shared_.rows.size(); ++i) {
      const TokenIds& all = tokens(i);
      if (limits_.openings && end(i) > limits_.prefix + 1)
        by_prompt[{all.begin(), all.begin() + end(i)}].push_back(i);
      else
        single.push_back(i);
    }
    std::vector<std::vector<size_t>> families;
    for (auto& [prompt, members] : by_prompt) {
      if (members.size() < 2)
        single.insert(single.end(), members.begin(), members.end());
      else
        families.push_back(std::move(members));
    }
    std::sort(single.begin(), single.end());
    by_kind(std::move(single));
    by_opening(std::move(families));
    return std::move(out_);
  }

 private:
  [[nodiscard]] size_t row(size_t i) const { return static_cast<size_t>(shared_.rows[i][0]); }
  [[nodiscard]] const TokenIds& tokens(size_t i) const { return sequences_[row(i)]; }
  [[nodiscard]] int64_t end(size_t i) const { return ends_[row(i)]; }

  void by_kind(std::vector<size_t> order) {
    const auto kind = [&](size_t i) { return Kind(tokens(i).size(), end(i)); };
    std::stable_sort(order.begin(), order.end(),
                     [&](size_t a, size_t b) { return kind(a) > kind(b); });
    size_t first = out_.size();
    for (const size_t i : order) {
      const int64_t fresh = static_cast<int64_t>(kind(i).first) - limits_.prefix;
      const bool fits = out_.size() > first && kind(out_.back().sequences[0]) == kind(i) &&
                        may_grow(out_.back().sequences, fresh);
      if (!fits) out_.emplace_back();
      out_.back().sequences.push_back(i);
    }
  }

  /// Families whose openings are equally long go together.
  void by_opening(std::vector<std::vector<size_t>> families) {
    const auto opening = [&](const std::vector<size_t>& family) { return end(family[0]) - 1; };
    for (std::vector<size_t>& family : families)
      std::stable_sort(family.begin(), family.end(),
                       [&](size_t a, size_t b) { return tokens(a).size() > tokens(b).size(); });
    std::stable_sort(families.begin(), families.end(),
                     [&](const auto& a, const auto& b) { return opening(a) > opening(b); });
    size_t first = out_.size();
    for (const std::vector<size_t>& family : families) {
      const bool fits = out_.size() > first &&
                        end(out_.back().openings[0]) - 1 == opening(family) &&
                        may_grow(out_.back().openings, opening(family) - limits_.prefix);
      if (!fits) out_.emplace_back();
      SequenceGroup& group = out_.back();
      group.openings.push_back(family[0]);
      for (const size_t i : family) {
        group.sequences.push_back(i);
        group.opening.push_back(static_cast<int64_t>(group.openings.size()) - 1);
      }
    }
  }

  [[nodiscard]] bool may_grow(const std::vector<size_t>& rows, int64_t tokens) const {
    const auto next = static_cast<int64_t>(rows.size()) + 1;
    return next <= limits_.sequences && next * tokens <= limits_.tokens;
  }

  const SharedRows& shared_;
  std::span<const TokenIds> sequences_;
  std::span<const int64_t> ends_;
  const GroupLimits& limits_;
  std::vector<SequenceGroup> out_;
};

}  // namespace

std::optional<SharedRows> shared_rows(std::span<const TokenIds> sequences,
                                      std::span<const int64_t> ends, const RunOptions& options,
                                      int64_t layers) {
  const bool one_arm = options.arm_of_prompt.empty();
  if (!one_arm && options.arm_of_prompt.size() != sequences.size()) return std::nullopt;
  std::map<std::pair<TokenIds, int64_t>, size_t> known;
  std::vector<std::map<int64_t, int64_t>> by_arm;  // row of each arm, by sequence
  for (size_t row = 0; row < sequences.size(); ++row) {
    const auto [place, fresh] = known.try_emplace({sequences[row], ends[row]}, by_arm.size());
    if (fresh) by_arm.emplace_back();
    const bool twice =
        !by_arm[place->second]
             .emplace(one_arm ? 0 : options.arm_of_prompt[row], static_cast<int64_t>(row))
             .second;
    if (twice) return std::nullopt;
  }
  SharedRows out;
  const std::vector<int64_t> joins = options.intervention.first_layers(layers);
  for (const auto& [arm, row] : by_arm.front())
    if (arm >= 0 && arm < static_cast<int64_t>(joins.size())) out.arms.push_back(arm);
  if (out.arms.empty()) return std::nullopt;
  if (out.arms.size() > 1) {
    const auto plain = std::find_if(out.arms.begin(), out.arms.end(), [&](int64_t arm) {
      return joins[static_cast<size_t>(arm)] == layers;
    });
    if (plain == out.arms.end()) return std::nullopt;
    std::rotate(out.arms.begin(), plain, plain + 1);
    std::stable_sort(out.arms.begin() + 1, out.arms.end(), [&](int64_t a, int64_t b) {
      return joins[static_cast<size_t>(a)] < joins[static_cast<size_t>(b)];
    });
  }
  for (const auto& of_sequence : by_arm) {
    if (of_sequence.size() != out.arms.size()) return std::nullopt;
    out.rows.emplace_back();
    for (const int64_t arm : out.arms) {
      const auto row = of_sequence.find(arm);
      if (row == of_sequence.end()) return std::nullopt;
      out.rows.back().push_back(row->second);
    }
  }
  return out;
}

std::vector<SequenceGroup> group_sequences(const SharedRows& shared,
                                           std::span<const TokenIds> sequences,
                                           std::span<const int64_t> ends,
                                           const GroupLimits& limits) {
  return Grouping(shared, sequences, ends, limits).groups();
}

}  // namespace cna
