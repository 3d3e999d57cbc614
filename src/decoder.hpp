/// Decoding: one batch of rows, a token of each a step. Private to the library.
#pragma once

#include <ATen/ATen.h>

#include <span>
#include <vector>

#include "cna/torch/generate.hpp"
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
class Decoder {
 public:
  Decoder(Run& run, const Batch& batch, const GenerateOptions& options);

  /// Takes the first places from what an earlier pass left, [rows, heads, places or more, dim].
  void start_from(const std::vector<at::Tensor>& filled, int64_t places);

  [[nodiscard]] bool done() const { return rows_.empty(); }
  /// Keys and values, and how many places of them are filled once the last step has run.
  [[nodiscard]] const std::vector<at::Tensor>& cache() const { return cache_; }
  [[nodiscard]] int64_t filled() const { return total_; }
  [[nodiscard]] std::span<const int64_t> rows() const { return rows_; }
  /// Of each row, how many tokens of its answer it has.
  [[nodiscard]] std::span<const int64_t> answered() const { return answered_; }

  /// Runs one step; returns the next token of every row still in the batch.
  std::vector<int64_t> step();

  /// Takes the tokens in, drops the rows that ended, and gets ready for the next step. Tokens and
  /// edits stay on the device; only where rows ended, the numbers of the others go there.
  void advance(const std::vector<bool>& ended);

  /// Takes over the rows of another that has advanced as well, and steers all of them; for hosts
  /// with a cache that take padded rows.
  void join(Decoder&& other);

 private:
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
};

}  // namespace cna
