#include "fan.hpp"

#include <ATen/ATen.h>

#include <algorithm>
#include <map>
#include <numeric>

#include "cna/torch/tap.hpp"
#include "step_error.hpp"

namespace cna {
namespace {

/// Tokens of the unsteered rows of a pass, at most: as a batch without arms (batch_limits.cpp).
constexpr int64_t kTokens = 640;

std::map<int64_t, int64_t> copies_by_slot(const Taps& taps, std::span<const int64_t> alive) {
  std::map<int64_t, int64_t> out;
  for (size_t layer = 1; layer < alive.size(); ++layer)
    if (alive[layer] > alive[layer - 1])
      out[taps.slot(Site::residual, static_cast<int64_t>(layer) - 1)] =
          alive[layer] - alive[layer - 1];
  return out;
}

}  // namespace

std::optional<SharedRows> shared_rows(std::span<const TokenIds> sequences,
                                      std::span<const int64_t> ends, const RunOptions& options,
                                      int64_t layers) {
  if (options.arm_of_prompt.size() != sequences.size()) return std::nullopt;
  std::map<std::pair<TokenIds, int64_t>, size_t> known;
  std::vector<std::map<int64_t, int64_t>> by_arm;  // row of each arm, by sequence
  for (size_t row = 0; row < sequences.size(); ++row) {
    const auto [place, fresh] = known.try_emplace({sequences[row], ends[row]}, by_arm.size());
    if (fresh) by_arm.emplace_back();
    const bool twice = !by_arm[place->second]
                            .emplace(options.arm_of_prompt[row], static_cast<int64_t>(row))
                            .second;
    if (twice) return std::nullopt;
  }
  SharedRows out;
  const std::vector<int64_t> joins = options.intervention.first_layers(layers);
  for (const auto& [arm, row] : by_arm.front())
    if (arm >= 0 && arm < static_cast<int64_t>(joins.size())) out.arms.push_back(arm);
  const auto plain = std::find_if(out.arms.begin(), out.arms.end(), [&](int64_t arm) {
    return joins[static_cast<size_t>(arm)] == layers;
  });
  if (out.arms.size() < 2 || plain == out.arms.end()) return std::nullopt;
  std::rotate(out.arms.begin(), plain, plain + 1);
  std::stable_sort(out.arms.begin() + 1, out.arms.end(), [&](int64_t a, int64_t b) {
    return joins[static_cast<size_t>(a)] < joins[static_cast<size_t>(b)];
  });
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

bool Host::widening_works(Host& host) try {
  const ModelInfo& info = host.info();
  const int64_t layers = info.shape.layers;
  if (!info.residual_sites || !info.has_cache() || !info.layouts.batch || layers < 2) return false;
  constexpr int64_t rows = 2, tokens = 3;
  const auto longs = at::TensorOptions(at::kLong).device(info.device);
  const auto step = [&](int64_t apart, std::span<const int64_t> copies) {
    Step out{at::arange(apart * tokens, longs)
                 .view({apart, tokens})
                 .remainder(info.vocab > 0 ? info.vocab : 8),
             at::ones({rows == apart && copies.empty() ? apart : 1, tokens}, longs),
             at::arange(tokens, longs).unsqueeze(0),
             at::arange(tokens, longs),
             {}};
    if (copies.empty()) out.positions = out.positions.repeat({apart, 1});
    for (size_t layer = 0; layer < info.cache.size(); ++layer)
      for (const int64_t dim : {info.cache[layer].key_dim, info.cache[layer].value_dim})
        out.cache.push_back(at::zeros(
            {apart * (copies.empty() ? 1 : copies[layer]), info.cache[layer].heads, tokens, dim},
            at::TensorOptions(info.dtype).device(info.cache_device(layer))));
    return out;
  };
  const at::Tensor plain = host.logits(step(rows, {})).to(at::kFloat);
  // One copy joins behind the first layer, another behind the last.
  std::vector<int64_t> alive(static_cast<size_t>(layers + 1), 2);
  alive.front() = 1, alive.back() = 3;
  host.taps().widen(copies_by_slot(host.taps(), alive), rows);
  at::Tensor wide;
  try {
    wide = host.logits(step(rows, alive)).to(at::kFloat);
  } catch (...) {
    host.taps().widen({}, 0);
    throw;
  }
  host.taps().widen({}, 0);
  if (wide.dim() != 3 || wide.size(0) != 3 * rows) return false;
  const at::Tensor apart = wide.view({3, rows, tokens, -1}) - plain.unsqueeze(0);
  return apart.abs().max().item<double>() <= 1e-3 * plain.abs().max().item<double>();
} catch (const std::exception&) {
  return false;  // the graph holds on to its number of rows
}

/// Arms that pass together, the unsteered one first, in the order in which they join.
struct Fan::Chunk {
  std::vector<size_t> places;      ///< in SharedRows::arms
  std::vector<int64_t> alive;      ///< how many of them layer l has, [layers + 1]
  std::vector<at::Tensor> prefix;  ///< keys and values, [arms of the layer, heads, prefix, dim]
};

Fan::Fan(Run& run, const RunOptions& options, std::span<const int64_t> ends, SharedRows shared,
         int64_t prefix)
    : run_(run), options_(options), ends_(ends), shared_(std::move(shared)), prefix_(prefix) {
  const std::vector<int64_t> all = options.intervention.first_layers(run.info().shape.layers);
  for (const int64_t arm : shared_.arms) joins_.push_back(all[static_cast<size_t>(arm)]);
  joins_[0] = 0;  // the others are copies of it
}

Fan::Chunk Fan::chunk(std::span<const size_t> places) const {
  Chunk out;
  out.places.assign(places.begin(), places.end());
  for (int64_t layer = 0; layer <= run_.info().shape.layers; ++layer)
    out.alive.push_back(std::count_if(places.begin(), places.end(),
                                      [&](size_t place) { return joins_[place] <= layer; }));
  return out;
}

void Fan::arrange(const Chunk& chunk, int64_t sequences) {
  std::vector<int64_t> arms;
  for (const size_t place : chunk.places)
    arms.insert(arms.end(), static_cast<size_t>(sequences), shared_.arms[place]);
  run_.steer_arms(arms);
  run_.host().taps().widen(copies_by_slot(run_.host().taps(), chunk.alive), sequences);
}

std::vector<at::Tensor> Fan::cache(const Chunk& chunk, int64_t sequences, int64_t capacity) const {
  std::vector<at::Tensor> out;
  const ModelInfo& info = run_.info();
  for (size_t layer = 0; layer < info.cache.size(); ++layer) {
    const CacheShape& shape = info.cache[layer];
    const int64_t arms = chunk.alive[layer];
    const auto options = at::TensorOptions(info.dtype).device(info.cache_device(layer));
    for (const int64_t dim : {shape.key_dim, shape.value_dim}) {
      at::Tensor buffer;
      try {
        buffer = at::empty({arms * sequences, shape.heads, capacity, dim}, options);
      } catch (const std::exception& error) {
        throw_allocation_error(arms * sequences, capacity, error);
      }
      if (!chunk.prefix.empty())
        buffer.view({arms, sequences, shape.heads, capacity, dim})
            .narrow(3, 0, prefix_)
            .copy_(chunk.prefix[out.size()].unsqueeze(1));
      out.push_back(std::move(buffer));
    }
  }
  return out;
}

void Fan::compute_prefix(Chunk& chunk) {
  if (prefix_ == 0) return;
  const auto longs = at::TensorOptions(at::kLong).device(run_.info().device);
  const TokenIds& first = run_.prompts()[0];
  Step step;
  step.ids =
      at::tensor(at::ArrayRef<int64_t>(first.data(), static_cast<size_t>(prefix_)), at::kLong)
          .to(run_.info().device)
          .unsqueeze(0)
          .repeat({chunk.alive[0], 1});
  step.mask = at::ones({1, prefix_}, longs);
  step.positions = at::arange(prefix_, longs).unsqueeze(0);
  step.keep = at::full({1}, prefix_ - 1, longs);
  step.cache = cache(chunk, 1, prefix_);
  arrange(chunk, 1);
  // No edit treats its tokens apart.
  run_.host().taps().set_places(at::full({1, prefix_}, options_.intervention.last() + 1, longs));
  run_.host().run_to_last_tap(step);
  chunk.prefix = step.cache;
}

std::vector<std::vector<size_t>> Fan::groups(int64_t at_once) const {
  const auto kind = [&](size_t i) {
    const auto row = static_cast<size_t>(shared_.rows[i][0]);
    return std::pair(run_.prompts()[row].size(), ends_[row]);
  };
  std::vector<size_t> order(shared_.rows.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(),
                   [&](size_t a, size_t b) { return kind(a) > kind(b); });
  std::vector<std::vector<size_t>> out;
  for (const size_t i : order) {
    const auto fresh = static_cast<int64_t>(kind(i).first) - prefix_;
    const bool fits = !out.empty() && kind(out.back()[0]) == kind(i) &&
                      static_cast<int64_t>(out.back().size()) < at_once &&
                      static_cast<int64_t>(out.back().size() + 1) * fresh <= kTokens;
    if (!fits) out.emplace_back();
    out.back().push_back(i);
  }
  return out;
}

void Fan::pass(const Chunk& chunk, std::span<const size_t> sequences, const Score& score) {
  const auto n = static_cast<int64_t>(sequences.size());
  const TokenIds& first = run_.prompts()[static_cast<size_t>(shared_.rows[sequences[0]][0])];
  const auto total = static_cast<int64_t>(first.size()), fresh = total - prefix_;
  Batch batch;
  for (const size_t place : chunk.places)
    for (const size_t i : sequences) batch.rows.push_back(shared_.rows[i][place]);
  at::Tensor ids = at::empty({n, fresh}, at::kLong);
  for (int64_t i = 0; i < n; ++i) {
    const TokenIds& own = run_.prompts()[static_cast<size_t>(batch.rows[static_cast<size_t>(i)])];
    std::copy(own.begin() + prefix_, own.end(), ids.data_ptr<int64_t>() + i * fresh);
  }
  ids = ids.to(run_.info().device);
  batch.ids = ids.repeat({static_cast<int64_t>(chunk.places.size()), 1});
  batch.mask = at::ones({1, total}, ids.options());
  batch.positions = at::arange(prefix_, total, ids.options()).unsqueeze(0);
  arrange(chunk, n);
  run_.place(std::span(batch.rows).first(1), batch.positions);
  score(batch, [&](const at::Tensor& keep) {
    return run_.logits({ids.repeat({chunk.alive[0], 1}), batch.mask, batch.positions, keep,
                        cache(chunk, n, total)});
  });
}

void Fan::each(const Score& score) {
  const auto arms = static_cast<int64_t>(shared_.arms.size());
  const int64_t rows = std::max<int64_t>(options_.batch_rows, 2);
  const int64_t others = std::min(arms, rows) - 1;  // beside the unsteered one
  const auto split = groups(std::max<int64_t>(rows / (others + 1), 1));
  for (int64_t from = 1; from < arms; from += others) {
    std::vector<size_t> places{0};
    for (int64_t i = from; i < std::min(arms, from + others); ++i)
      places.push_back(static_cast<size_t>(i));
    Chunk part = chunk(places);
    compute_prefix(part);
    for (const auto& sequences : split) pass(part, sequences, score);
  }
}

}  // namespace cna
