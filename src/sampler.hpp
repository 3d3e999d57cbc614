/// The next tokens of a batch, greedy or drawn. Private to the library.
#pragma once

#include <ATen/ATen.h>

#include <algorithm>
#include <random>
#include <span>
#include <vector>

#include "cna/torch/generate.hpp"
#include "finite.hpp"
#include "late_read.hpp"

namespace cna {

/// Draws one token per row, each from its own random stream.
class Sampler {
 public:
  Sampler(const GenerateOptions& options, std::span<const int64_t> rows) : options_(options) {
    for (const int64_t row : rows) {
      std::seed_seq seed{static_cast<uint32_t>(options.seed),
                         static_cast<uint32_t>(options.seed >> 32),
                         static_cast<uint32_t>(options.first_prompt + row)};
      streams_.emplace_back(seed);
    }
  }
  void move(size_t to, size_t from) { streams_[to] = streams_[from]; }
  /// Only the first rows go on.
  void keep_first(size_t rows) { streams_.resize(rows); }
  /// Another's rows come behind these.
  void join(const Sampler& other) {
    streams_.insert(streams_.end(), other.streams_.begin(), other.streams_.end());
  }

  /// The next token of each row, int64 [rows], on the device of the logits; -1 where they mean
  /// nothing.
  at::Tensor next(const at::Tensor& logits) {
    at::Tensor chosen, best;  // best: the largest logit of each row, which an overflow is too
    if (options_.temperature == 0.0) {
      chosen = logits.argmax(-1);
      best = logits.gather(-1, chosen.unsqueeze(-1)).squeeze(-1);
    } else {
      const int64_t vocab = logits.size(-1);
      const int64_t k = options_.top_k > 0 ? std::min(options_.top_k, vocab) : vocab;
      const auto [scores, order] = at::topk(logits.to(at::kFloat), k, -1);
      best = scores.select(-1, 0);
      // The largest is subtracted first: a temperature near 0 must not overflow.
      const at::Tensor below = (scores - scores.narrow(-1, 0, 1)).to(at::kDouble);
      at::Tensor mass = (below / options_.temperature).softmax(-1).cumsum(-1);
      const bool beside = LateRead::may_wait_for(logits.device());  // then nobody waits
      at::Tensor draw =
          at::empty({logits.size(0), 1}, at::TensorOptions(at::kDouble).pinned_memory(beside));
      for (int64_t row = 0; row < logits.size(0); ++row)
        draw.data_ptr<double>()[row] =
            std::uniform_real_distribution<double>()(streams_[static_cast<size_t>(row)]);
      draw = draw.to(logits.device(), at::kDouble, /*non_blocking=*/beside);
      // The smallest set that reaches top_p: draw below its whole mass.
      const at::Tensor cut = (mass < options_.top_p).sum(-1, true).clamp_max(k - 1);
      const at::Tensor pick = at::searchsorted(mass, draw * mass.gather(1, cut)).clamp_max(k - 1);
      chosen = order.gather(1, pick).squeeze(1);
    }
    return chosen.masked_fill(meaningless(logits, best.isfinite().logical_not()), -1);
  }

 private:
  const GenerateOptions& options_;
  std::vector<std::mt19937_64> streams_;
};

}  // namespace cna
