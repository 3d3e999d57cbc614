/// A run over prompts: holds the model's turn, the edits, and the keys and values of the prefix.
///
/// Private to the library: it keeps references to what its caller passed and lives inside one call.
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "cna/torch/model.hpp"
#include "cna/torch/tap.hpp"
#include "cna/torch/tokens.hpp"
#include "prefix_places.hpp"
#include "replays.hpp"

namespace cna {

class Run {
 public:
  /// @param room  tokens that will follow each prompt, for the length check.
  /// @param ends  tokens of each row that are its prompt, where an answer follows; empty: all.
  Run(const char* function, Model& model, std::span<const TokenIds> prompts,
      const RunOptions& options, int64_t room = 0, std::span<const int64_t> ends = {});
  ~Run();
  Run(const Run&) = delete;
  Run& operator=(const Run&) = delete;

  /// The caller's name, for what it says to a user.
  [[nodiscard]] const char* function() const { return function_; }
  [[nodiscard]] Host& host() { return model_.host(); }
  [[nodiscard]] const ModelInfo& info() const { return model_.info(); }
  [[nodiscard]] std::span<const TokenIds> prompts() const { return prompts_; }
  [[nodiscard]] int64_t prefix() const { return prefix_; }
  /// Tokens that all prompts begin with and no edit treats apart.
  [[nodiscard]] int64_t common_part() const;
  [[nodiscard]] std::vector<Batch> batches() const;
  /// Rows that wait for a place among those whose answers are being written: in blocks of a size
  /// that prompts are read well in, a quarter of a batch at most.
  [[nodiscard]] std::vector<Batch> blocks() const;
  /// Whether a block may join these rows.
  [[nodiscard]] bool fit(std::span<const int64_t> rows, const Batch& block) const;
  [[nodiscard]] std::vector<int64_t> arms(std::span<const int64_t> rows) const;

  /// Edits for a batch whose rows are these prompts; stays until the next call.
  void steer(std::span<const int64_t> rows);
  /// Likewise, by the arm of each row.
  void steer_arms(const std::vector<int64_t>& arms);
  /// Of the batch's rows, only these go on, in this order: [rows], int64, on the model's device.
  void keep_rows(const at::Tensor& rows);
  /// Key and value buffers [rows, heads, capacity, dim] with the prefix filled in.
  /// @throws OutOfMemory if the device has no room for them.
  [[nodiscard]] std::vector<at::Tensor> cache(std::span<const int64_t> rows,
                                              int64_t capacity) const;
  /// What the model predicts, the steering of the logits included.
  [[nodiscard]] at::Tensor logits(const Step& step);
  /// Whether steps of one token are captured and replayed, in buckets.
  [[nodiscard]] bool replays() const { return replays_.has_value(); }
  [[nodiscard]] std::shared_ptr<Bucket> bucket(int64_t rows, int64_t places) {
    return replays_->bucket(rows, places);
  }
  /// `logits` of the first `rows` rows of a bucket's step.
  [[nodiscard]] at::Tensor replay(Bucket& bucket, int64_t rows);
  /// Rows that read their prompts together, of `rows` with so many new tokens.
  [[nodiscard]] int64_t rows_of_prefill(int64_t rows, int64_t tokens) const;
  /// Tokens of the longest of these prompts.
  [[nodiscard]] int64_t longest(std::span<const int64_t> rows) const;
  /// Fills places of buffers [rows, heads, total or more, dim], whose rows' prompts end at place
  /// `total`, with what the prefix left; with 0 where there is none.
  void fill(const std::vector<at::Tensor>& cache, std::span<const int64_t> rows, int64_t total,
            int64_t begin, int64_t end) const;
  /// The first step of a batch; `cache` from above, `keep` indices into the new tokens.
  [[nodiscard]] Step first_step(const Batch& batch, const std::vector<at::Tensor>& cache,
                                at::Tensor keep);
  /// Tells the taps where the tokens of the next step stand, [rows, new] positions in their rows.
  void place(std::span<const int64_t> rows, const at::Tensor& positions);
  void report(int64_t done, int64_t total) const;

 private:
  /// What changes activations and logits of some rows, on the device.
  struct Steering {
    std::vector<TapEdit> edits;
    at::Tensor bias;  // of the logits, [rows or 1, 1, vocab], undefined: none

    [[nodiscard]] Steering select(const at::Tensor& rows) const;
  };
  void compute_prefix();
  [[nodiscard]] at::Tensor biased(at::Tensor logits) const;
  [[nodiscard]] int64_t end_of(int64_t row) const;
  /// That of one arm for all rows, or of all arms in their order; uploaded once in a run.
  const Steering& bound(int64_t arm);
  [[nodiscard]] PrefixPlaces prefix_places(std::span<const int64_t> rows, int64_t total,
                                           int64_t begin, int64_t end) const;

  const char* function_;
  Model& model_;
  Model::Turn turn_;
  std::span<const TokenIds> prompts_;
  const RunOptions& options_;
  int64_t room_;
  std::span<const int64_t> ends_;
  int64_t last_;  // tokens at a prompt's end that an edit treats apart; 0: none does
  int64_t prefix_ = 0;
  std::map<int64_t, Steering> bound_;
  Steering steering_;      // of the batch under way
  int64_t steerings_ = 0;  // how many there have been
  std::optional<Replays> replays_;
  std::vector<at::Tensor> prefix_cache_;  // [arms, heads, prefix, dim]
};

/// The buffers' first `rows` rows and `total` places.
[[nodiscard]] std::vector<at::Tensor> view_cache(const std::vector<at::Tensor>& cache, int64_t rows,
                                                 int64_t total);

}  // namespace cna
