#include "fan.hpp"

#include <ATen/ATen.h>

#include <algorithm>
#include <map>

#include "cna/torch/tap.hpp"
#include "step_error.hpp"

namespace cna {
namespace {

std::map<int64_t, int64_t> copies_by_slot(const Taps& taps, std::span<const int64_t> alive) {
  std::map<int64_t, int64_t> out;
  for (size_t layer = 1; layer < alive.size(); ++layer)
    if (alive[layer] > alive[layer - 1])
      out[taps.slot(Site::residual, static_cast<int64_t>(layer) - 1)] =
          alive[layer] - alive[layer - 1];
  return out;
}

}  // namespace

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
  std::vector<size_t> places;  ///< in SharedRows::arms
  std::vector<int64_t> alive;  ///< how many of them layer l has, [layers + 1]
};

/// Keys and values that sequences begin with.
struct Fan::Opening {
  int64_t places = 0;  ///< tokens
  /// [arms of the layer, openings, heads, places, dim] of each buffer
  std::vector<at::Tensor> filled;
  at::Tensor which;  ///< int64 [sequences], each one's opening; undefined: all the first
};

Fan::Fan(Run& run, const RunOptions& options, std::span<const int64_t> ends, SharedRows shared,
         int64_t prefix, bool openings)
    : run_(run),
      options_(options),
      ends_(ends),
      shared_(std::move(shared)),
      prefix_(prefix),
      openings_(openings) {
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

std::vector<at::Tensor> Fan::cache(const Chunk& chunk, const Opening& opening, int64_t sequences,
                                   int64_t capacity) const {
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
      if (opening.places > 0) {
        const at::Tensor& filled = opening.filled[out.size()];
        buffer.view({arms, sequences, shape.heads, capacity, dim})
            .narrow(3, 0, opening.places)
            .copy_(opening.which.defined() ? filled.index_select(1, opening.which) : filled);
      }
      out.push_back(std::move(buffer));
    }
  }
  return out;
}

at::Tensor Fan::tokens(std::span<const size_t> sequences, int64_t from, int64_t to) const {
  const auto n = static_cast<int64_t>(sequences.size());
  at::Tensor out = at::zeros({n, to - from}, at::kLong);
  for (int64_t i = 0; i < n; ++i) {
    const TokenIds& own = run_.prompts()[row_of(sequences[static_cast<size_t>(i)])];
    const int64_t end = std::min(to, static_cast<int64_t>(own.size()));
    std::copy(own.begin() + from, own.begin() + end,
              out.data_ptr<int64_t>() + i * (to - from));  // behind its end: tokens nobody reads
  }
  return out.to(run_.info().device);
}

Fan::Opening Fan::open(const Chunk& chunk, const Opening& before, std::span<const size_t> sequences,
                       int64_t places) {
  if (places == before.places) return before;
  const auto n = static_cast<int64_t>(sequences.size());
  const at::Tensor ids = tokens(sequences, before.places, places);
  Step step;
  step.ids = ids.repeat({chunk.alive[0], 1});
  step.mask = at::ones({1, places}, ids.options());
  step.positions = at::arange(before.places, places, ids.options()).unsqueeze(0);
  step.keep = at::full({1}, places - before.places - 1, ids.options());
  step.cache = cache(chunk, before, n, places);
  arrange(chunk, n);
  place(sequences[0], step.positions);
  run_.host().run_to_last_tap(step);
  Opening out{places, {}, {}};
  for (size_t i = 0; i < step.cache.size(); ++i) {
    const at::Tensor& filled = step.cache[i];
    out.filled.push_back(
        filled.view({chunk.alive[i / 2], n, filled.size(1), filled.size(2), filled.size(3)}));
  }
  return out;
}

void Fan::place(size_t sequence, const at::Tensor& positions) {
  const auto row = static_cast<int64_t>(row_of(sequence));
  run_.place(std::span(&row, 1), positions);
}

void Fan::pass(const Chunk& chunk, const Opening& opening, std::span<const size_t> sequences,
               const Score& score) {
  const auto n = static_cast<int64_t>(sequences.size());
  int64_t total = 0;
  for (const size_t i : sequences)
    total = std::max(total, static_cast<int64_t>(run_.prompts()[row_of(i)].size()));
  Batch batch;
  for (const size_t at : chunk.places)
    for (const size_t i : sequences) batch.rows.push_back(shared_.rows[i][at]);
  const at::Tensor ids = tokens(sequences, opening.places, total);
  batch.ids = ids.repeat({static_cast<int64_t>(chunk.places.size()), 1});
  batch.mask = at::ones({1, total}, ids.options());
  batch.positions = at::arange(opening.places, total, ids.options()).unsqueeze(0);
  arrange(chunk, n);
  place(sequences[0], batch.positions);
  score(batch, [&](const at::Tensor& keep) {
    return run_.logits({ids.repeat({chunk.alive[0], 1}), batch.mask, batch.positions, keep,
                        cache(chunk, opening, n, total)});
  });
}

void Fan::each(const Score& score) {
  const auto arms = static_cast<int64_t>(shared_.arms.size());
  const int64_t rows = std::max<int64_t>(options_.batch_rows, 2);
  const int64_t others = std::min(arms, rows) - 1;  // beside the first one
  GroupLimits limits;
  limits.prefix = prefix_, limits.openings = openings_;
  limits.sequences = std::max<int64_t>(rows / (others + 1), 1);
  const auto groups = group_sequences(shared_, run_.prompts(), ends_, limits);
  const auto at_once = static_cast<size_t>(limits.sequences);
  for (int64_t from = 1; from == 1 || from < arms; from += others) {
    std::vector<size_t> places{0};
    for (int64_t i = from; i < std::min(arms, from + others); ++i)
      places.push_back(static_cast<size_t>(i));
    const Chunk part = chunk(places);
    const size_t first = 0;
    const Opening prefix = open(part, {}, std::span(&first, 1), prefix_);
    for (const SequenceGroup& group : groups) {
      const std::span<const size_t> all = group.sequences;
      if (group.openings.empty()) {
        pass(part, prefix, all, score);
        continue;
      }
      Opening opening = open(part, prefix, group.openings, ends_[row_of(group.openings[0])] - 1);
      for (size_t i = 0; i < all.size(); i += at_once) {
        const size_t n = std::min(at_once, all.size() - i);
        opening.which = at::tensor(at::ArrayRef<int64_t>(group.opening).slice(i, n), at::kLong)
                            .to(run_.info().device);
        pass(part, opening, all.subspan(i, n), score);
      }
    }
    if (others == 0) break;
  }
}

}  // namespace cna
