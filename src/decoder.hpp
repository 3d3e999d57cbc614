/// Decoding: one batch of rows, a token of each a step. Private to the library.
#pragma once

#include <ATen/ATen.h>

#include <deque>
#include <memory>
#include <span>
#include <vector>

#include "cna/torch/generate.hpp"
#include "late_read.hpp"
#include "run.hpp"
#include "sampler.hpp"

namespace cna {

/// Throws ValueError for options that cannot be; `function` names the caller.
void require_options(const char* function, const GenerateOptions& options);

/// The tokens that end an answer: those asked for, else the model's; none where they do not count.
[[nodiscard]] std::vector<int64_t> end_tokens(const GenerateOptions& options,
                                              const ModelInfo& info);

/// Rows under way, in the order of the buffers. Rows that end leave; those of another batch, which
/// has answered its prompts' last tokens, may join.
///
/// Where a device runs beside the host, the next step is launched before the tokens of this one are
/// read, so that the device does not wait; a row that has ended then computes one token that nobody
/// reads.
class Decoder {
 public:
  /// @param watched  each step's activations are looked at: no step runs ahead, none is split
  Decoder(Run& run, const Batch& batch, const GenerateOptions& options, bool watched = false);

  /// Takes the first places from what an earlier pass left, [rows, heads, places or more, dim].
  void start_from(const std::vector<at::Tensor>& filled, int64_t places);

  [[nodiscard]] bool done() const { return rows_.empty(); }
  /// Keys and values, and how many places of them are filled once the last step has run.
  [[nodiscard]] const std::vector<at::Tensor>& cache() const { return cache_; }
  [[nodiscard]] int64_t filled() const { return total_; }
  [[nodiscard]] std::span<const int64_t> rows() const { return rows_; }
  /// Of each row, how many tokens of its answer it has.
  [[nodiscard]] std::span<const int64_t> answered() const { return answered_; }

  /// The next token of every row still in the batch: of the step that has run ahead, else of one
  /// that runs now.
  /// @param ahead  a further step may be launched before these tokens are read
  std::vector<int64_t> step(bool ahead = true);

  /// Takes the tokens in, drops the rows that ended, and gets ready for the next step. Tokens and
  /// edits stay on the device; only where rows ended, the numbers of the others go there.
  void advance(const std::vector<bool>& ended);

  /// Whether a step has run whose tokens nobody has seen.
  [[nodiscard]] bool ran_ahead() const { return !unread_.empty(); }

  /// Takes over the rows of another that has advanced as well, and steers all of them; for hosts
  /// with a cache that take padded rows.
  void join(Decoder&& other);

 private:
  /// Runs a step of all rows and starts to read its tokens.
  void launch();
  /// Logits [rows, vocab] behind the prompts, or behind the last tokens.
  [[nodiscard]] at::Tensor prefill();
  [[nodiscard]] at::Tensor decode();
  /// The chosen tokens become the next step's.
  void feed_chosen();
  /// Takes a bucket with room for the rows, and the keys and values along.
  void move_into_bucket();
  void move_row(size_t to, size_t from);
  /// Places that some row still reads, with that of the token to come.
  [[nodiscard]] int64_t needed() const;

  Run& run_;
  const GenerateOptions& options_;
  std::vector<int64_t> rows_, answered_;
  Sampler sampler_;
  std::vector<at::Tensor> cache_;
  at::Tensor ids_, mask_, positions_, chosen_;
  int64_t total_ = 0;
  bool watched_, prefilled_ = false;
  std::deque<LateRead> unread_;     // of steps, the oldest first
  std::shared_ptr<Bucket> bucket_;  // whose memory the keys and values are
};

}  // namespace cna
