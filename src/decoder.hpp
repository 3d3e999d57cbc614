/// Decoding: one batch of rows, a token of each a step, greedy or drawn. Private to the library.
#pragma once

#include <ATen/ATen.h>

#include <algorithm>
#include <random>
#include <span>
#include <vector>

#include "cna/torch/generate.hpp"
#include "cna/torch/tap.hpp"
#include "finite.hpp"
#include "run.hpp"

namespace cna {

/// Throws ValueError for options that cannot be; `function` names the caller.
void require_options(const char* function, const GenerateOptions& options);

/// The tokens that end an answer: those asked for, else the model's; none where they do not count.
[[nodiscard]] std::vector<int64_t> end_tokens(const GenerateOptions& options,
                                              const ModelInfo& info);

/// Draws one token per row, each from its own random stream.
class Sampler {
 public:
  Sampler(const GenerateOptions& options, std::span<const int64_t> rows) : options_(options) {
    for (const int64_t row : rows) {
      std::seed_seq seed{static_cast<uint32_t>(options.seed),
                         static_cast<uint32_t>(options.seed >> 32), static_cast<uint32_t>(row)};
      streams_.emplace_back(seed);
    }
  }
  void move(size_t to, size_t from) { streams_[to] = streams_[from]; }

  /// The next token of each row, int64 [rows], on the device of the logits; -1 where they mean
  /// nothing.
  at::Tensor next(const at::Tensor& logits) {
    at::Tensor chosen;
    if (options_.temperature == 0.0) {
      chosen = logits.argmax(-1);
    } else {
      const int64_t vocab = logits.size(-1);
      const int64_t k = options_.top_k > 0 ? std::min(options_.top_k, vocab) : vocab;
      const auto [scores, order] = at::topk(logits.to(at::kFloat), k, -1);
      // The largest is subtracted first: a temperature near 0 must not overflow.
      const at::Tensor below = (scores - scores.narrow(-1, 0, 1)).to(at::kDouble);
      at::Tensor mass = (below / options_.temperature).softmax(-1).cumsum(-1);
      at::Tensor draw = at::empty({logits.size(0), 1}, at::kDouble);
      for (int64_t row = 0; row < logits.size(0); ++row)
        draw.data_ptr<double>()[row] =
            std::uniform_real_distribution<double>()(streams_[static_cast<size_t>(row)]);
      // The smallest set that reaches top_p: draw below its whole mass.
      const at::Tensor cut = (mass < options_.top_p).sum(-1, true).clamp_max(k - 1);
      const at::Tensor pick =
          at::searchsorted(mass, draw.to(logits.device()) * mass.gather(1, cut)).clamp_max(k - 1);
      chosen = order.gather(1, pick).squeeze(1);
    }
    return chosen.masked_fill(meaningless(logits), -1);
  }

 private:
  const GenerateOptions& options_;
  std::vector<std::mt19937_64> streams_;
};

/// One batch under way: its rows in the order of the buffers.
class Decoder {
 public:
  Decoder(Run& run, const Batch& batch, const GenerateOptions& options)
      : run_(run), options_(options), rows_(batch.rows), sampler_(options, batch.rows) {
    total_ = batch.mask.size(1);
    const int64_t capacity = total_ + options.max_new_tokens - 1;
    cache_ = run.cache(rows_, capacity);
    ids_ = batch.ids;
    mask_ = at::ones({batch.mask.size(0), capacity}, batch.mask.options());
    mask_.narrow(1, 0, total_).copy_(batch.mask);
    positions_ = batch.positions;
  }

  /// Takes the first places from what an earlier pass left, [rows, heads, places or more, dim].
  void start_from(const std::vector<at::Tensor>& filled, int64_t places) {
    for (size_t i = 0; i < filled.size(); ++i)
      cache_[i].narrow(2, 0, places).copy_(filled[i].narrow(2, 0, places));
  }

  bool done() const { return rows_.empty(); }
  /// Keys and values, and how many places of them are filled once the last step has run.
  const std::vector<at::Tensor>& cache() const { return cache_; }
  int64_t filled() const { return total_; }
  std::span<const int64_t> rows() const { return rows_; }

  /// Runs one step; returns the next token of every row still in the batch.
  /// @param number  of the answer's tokens, from 0
  std::vector<int64_t> step(int64_t number) {
    const auto rows = static_cast<int64_t>(rows_.size());
    const at::Tensor keep = at::full({1}, ids_.size(1) - 1, ids_.options());
    const Step step{ids_, mask_.narrow(0, 0, rows).narrow(1, 0, total_), positions_, keep,
                    view_cache(cache_, rows, total_)};
    if (number == 0 || !run_.info().has_cache())
      run_.place(rows_, positions_);
    else
      run_.host().taps().set_places({});  // new tokens stand behind every prompt
    chosen_ = sampler_.next(run_.logits(step).select(1, 0)).to(ids_.device());
    const at::Tensor host = chosen_.to(at::kCPU).contiguous();  // the only wait of a step
    const std::vector<int64_t> tokens{host.data_ptr<int64_t>(),
                                      host.data_ptr<int64_t>() + host.numel()};
    for (size_t i = 0; i < tokens.size(); ++i)
      if (tokens[i] < 0) throw_meaningless("generate", rows_[i], number);
    return tokens;
  }

  /// Takes the tokens in, drops the rows that ended, and gets ready for the next step. Tokens and
  /// edits stay on the device; only where rows ended, the numbers of the others go there.
  void advance(const std::vector<bool>& ended) {
    const size_t before = rows_.size();
    std::vector<int64_t> source(before);
    for (size_t i = 0; i < before; ++i) source[i] = static_cast<int64_t>(i);
    for (size_t i = before; i-- > 0;) {
      if (!ended[i]) continue;
      const size_t end = rows_.size() - 1;
      if (i != end) move_row(i, end);
      rows_[i] = rows_[end], source[i] = source[end];
      rows_.pop_back(), source.pop_back();
    }
    if (rows_.empty()) return;
    at::Tensor next = chosen_, last = positions_.select(1, -1);
    if (rows_.size() != before) {
      const at::Tensor from = at::tensor(source, at::kLong).to(ids_.device());
      next = next.index_select(0, from), last = last.index_select(0, from);
      if (!run_.info().has_cache()) ids_ = ids_.index_select(0, from);
      run_.keep_rows(from);
    }
    if (run_.info().has_cache()) {
      ids_ = next.unsqueeze(1);
      positions_ = last.add(1).unsqueeze(1);
    } else {  // without a cache the whole row runs again
      ids_ = at::cat({ids_, next.unsqueeze(1)}, 1);
      positions_ = at::arange(ids_.size(1), ids_.options()).expand({ids_.size(0), -1});
    }
    ++total_;
  }

 private:
  void move_row(size_t to, size_t from) {
    const auto a = static_cast<int64_t>(to), b = static_cast<int64_t>(from);
    for (at::Tensor& buffer : cache_)
      buffer.select(0, a).narrow(1, 0, total_).copy_(buffer.select(0, b).narrow(1, 0, total_));
    mask_.select(0, a).copy_(mask_.select(0, b));
    sampler_.move(to, from);
  }

  Run& run_;
  const GenerateOptions& options_;
  std::vector<int64_t> rows_;
  Sampler sampler_;
  std::vector<at::Tensor> cache_;
  at::Tensor ids_, mask_, positions_, chosen_;
  int64_t total_ = 0;
};

}  // namespace cna
