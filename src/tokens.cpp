#include "cna/torch/tokens.hpp"

#include <ATen/ATen.h>

#include <algorithm>
#include <limits>
#include <numeric>

#include "cna/error.hpp"

namespace cna {

std::vector<TokenIds> unpad(const at::Tensor& ids, const at::Tensor& mask) {
  if (ids.dim() != 2 || mask.dim() != 2 || ids.sizes() != mask.sizes())
    throw_value_error(
        "unpad: expected ids and mask of one shape [rows, tokens], got {} and {} "
        "dimensions; pass the tokenizer's input_ids and attention_mask",
        ids.dim(), mask.dim());
  const at::Tensor id = ids.to(at::kCPU, at::kLong).contiguous();
  const at::Tensor real = mask.to(at::kCPU, at::kLong).contiguous();
  std::vector<TokenIds> out;
  for (int64_t row = 0; row < id.size(0); ++row) {
    const int64_t* tokens = id.data_ptr<int64_t>() + row * id.size(1);
    const int64_t* keep = real.data_ptr<int64_t>() + row * id.size(1);
    const int64_t* end = keep + id.size(1);
    const int64_t* first = std::find_if(keep, end, [](int64_t m) { return m != 0; });
    const int64_t* last = std::find_if(first, end, [](int64_t m) { return m == 0; });
    if (first == end)
      throw_value_error("unpad: expected a real token in each row, got none in row {}; drop it",
                        row);
    if (std::any_of(last, end, [](int64_t m) { return m != 0; }))
      throw_value_error(
          "unpad: expected padding on one or both ends, got a hole in row {}; pass "
          "unbroken prompts",
          row);
    out.emplace_back(tokens + (first - keep), tokens + (last - keep));
  }
  return out;
}

int64_t common_prefix(std::span<const TokenIds> prompts) {
  if (prompts.empty()) return 0;
  const TokenIds& first = prompts[0];
  size_t shared = first.size();
  for (const TokenIds& prompt : prompts) {
    const size_t limit = std::min(shared, prompt.size());
    shared = static_cast<size_t>(
        std::mismatch(first.begin(), first.begin() + static_cast<int64_t>(limit), prompt.begin())
            .first -
        first.begin());
    shared = std::min(shared, prompt.empty() ? 0 : prompt.size() - 1);
  }
  return static_cast<int64_t>(shared);
}

namespace {

/// Ends of the batches, for lengths in descending order. A batch costs rows * longest + overhead;
/// the cheapest cut is found by dynamic programming over where the last batch begins.
std::vector<size_t> cut(const std::vector<int64_t>& lengths, int64_t prefix,
                        const BatchLimits& limits) {
  const size_t n = lengths.size();
  const auto fits = [&](size_t from, size_t to) {
    const auto rows = static_cast<int64_t>(to - from);
    if (!limits.padding && lengths[from] != lengths[to - 1]) return false;
    const int64_t places = rows * (prefix + lengths[from] + limits.room);
    return rows == 1 || (rows <= limits.rows && rows * lengths[from] <= limits.tokens &&
                         (limits.places == 0 || places <= limits.places));
  };
  std::vector<size_t> ends;
  if (limits.overhead == 0) {
    for (size_t from = 0; from < n;) {
      size_t to = from + 1;
      while (to < n && fits(from, to + 1)) ++to;
      ends.push_back(from = to);
    }
    return ends;
  }
  std::vector<int64_t> cost(n + 1, 0);
  std::vector<size_t> begin(n + 1, 0);
  for (size_t to = 1; to <= n; ++to) {
    cost[to] = std::numeric_limits<int64_t>::max();
    for (size_t from = to; from-- > 0 && fits(from, to);) {
      const int64_t total =
          cost[from] + static_cast<int64_t>(to - from) * lengths[from] + limits.overhead;
      if (total < cost[to]) cost[to] = total, begin[to] = from;
    }
  }
  for (size_t to = n; to > 0; to = begin[to]) ends.push_back(to);
  std::reverse(ends.begin(), ends.end());
  return ends;
}

}  // namespace

std::vector<Batch> make_batches(std::span<const TokenIds> prompts, int64_t prefix,
                                const BatchLimits& limits, c10::Device device) {
  std::vector<int64_t> order(prompts.size());
  std::iota(order.begin(), order.end(), int64_t{0});
  const auto length = [&](int64_t row) {
    return static_cast<int64_t>(prompts[static_cast<size_t>(row)].size()) - prefix;
  };
  std::stable_sort(order.begin(), order.end(),
                   [&](int64_t a, int64_t b) { return length(a) > length(b); });
  std::vector<int64_t> lengths;
  for (const int64_t row : order) lengths.push_back(length(row));
  std::vector<Batch> out;
  size_t from = 0;
  for (const size_t to : cut(lengths, prefix, limits)) {
    const int64_t longest = lengths[from];
    const auto rows = static_cast<int64_t>(to - from);
    Batch batch;
    batch.rows.assign(order.begin() + static_cast<int64_t>(from),
                      order.begin() + static_cast<int64_t>(to));
    batch.ids = at::zeros({rows, longest}, at::kLong);
    batch.positions = at::zeros({rows, longest}, at::kLong);
    batch.mask = at::ones({rows, prefix + longest}, at::kLong);
    for (int64_t r = 0; r < rows; ++r) {
      const TokenIds& prompt = prompts[static_cast<size_t>(batch.rows[static_cast<size_t>(r)])];
      const int64_t pad = longest - length(batch.rows[static_cast<size_t>(r)]);
      // The row's last `longest` places: the end of its prompt, behind padding if that is short.
      const int64_t fresh = std::min(longest, static_cast<int64_t>(prompt.size()));
      const int64_t first = r * longest + longest - fresh;
      std::copy(prompt.end() - fresh, prompt.end(), batch.ids.data_ptr<int64_t>() + first);
      int64_t* positions = batch.positions.data_ptr<int64_t>();
      std::iota(positions + first, positions + (r + 1) * longest,
                static_cast<int64_t>(prompt.size()) - fresh);
      std::fill_n(batch.mask.data_ptr<int64_t>() + r * (prefix + longest), pad, int64_t{0});
    }
    batch.ids = batch.ids.to(device);
    batch.mask = batch.mask.to(device);
    batch.positions = batch.positions.to(device);
    out.push_back(std::move(batch));
    from = to;
  }
  return out;
}

void require_prompts(const char* function, std::span<const TokenIds> prompts, int64_t vocab,
                     int64_t max_positions, int64_t room) {
  if (prompts.empty())
    throw_value_error("{}: expected at least one prompt, got an empty list; pass prompts",
                      function);
  for (size_t i = 0; i < prompts.size(); ++i) {
    const auto tokens = static_cast<int64_t>(prompts[i].size());
    if (tokens == 0)
      throw_value_error("{}: expected text in every prompt, got no token in prompt {}; drop it",
                        function, i);
    if (max_positions > 0 && room > max_positions - tokens)
      throw_value_error("{}: expected at most {} tokens, got {} in prompt {}{}; shorten it",
                        function, max_positions, tokens + room, i,
                        room > 0 ? fmt::format(" ({} and {} new ones)", tokens, room) : "");
    for (const int64_t id : prompts[i]) {
      if (id < 0 || (vocab > 0 && id >= vocab))
        throw_value_error(
            "{}: expected token ids below {}, got {} in prompt {}; use the model's own "
            "tokenizer",
            function, vocab, id, i);
    }
  }
}

}  // namespace cna
