/// Passes in which the arms of an intervention share what they do alike. Private to the library.
///
/// Below its first edit an arm computes what the unsteered model computes. So a pass begins with
/// unsteered rows alone, and an arm's rows join as copies of them behind the last layer that it
/// leaves as it is (`Taps::widen`): for texts that are given, where all arms see the same tokens.
#pragma once

#include <functional>
#include <optional>
#include <span>
#include <vector>

#include "run.hpp"

namespace cna {

/// A job whose sequences are each scored under the same arms.
struct SharedRows {
  std::vector<int64_t> arms;               ///< the first has no edit at a tap
  std::vector<std::vector<int64_t>> rows;  ///< [sequence][arm], rows of the job
};

/// The job of such rows, if it is one: rows of equal tokens and ends are one sequence.
[[nodiscard]] std::optional<SharedRows> shared_rows(std::span<const TokenIds> sequences,
                                                    std::span<const int64_t> ends,
                                                    const RunOptions& options, int64_t layers);

class Fan {
 public:
  /// What a batch is scored by: its rows of the job, and logits [rows, k, vocab] at `keep`.
  using Score = std::function<void(
      const Batch& batch, const std::function<at::Tensor(const at::Tensor& keep)>& logits)>;

  /// @param run     over all rows of the job, without a shared prefix of its own.
  /// @param prefix  tokens that all sequences begin with and no edit treats apart.
  Fan(Run& run, const RunOptions& options, std::span<const int64_t> ends, SharedRows shared,
      int64_t prefix);

  /// Goes through the job in batches; each has the first arm's rows before the others'.
  void each(const Score& score);

 private:
  struct Chunk;  // arms that pass together
  void pass(const Chunk& chunk, std::span<const size_t> sequences, const Score& score);
  [[nodiscard]] Chunk chunk(std::span<const size_t> places) const;
  void compute_prefix(Chunk& chunk);
  void arrange(const Chunk& chunk, int64_t sequences);
  [[nodiscard]] std::vector<at::Tensor> cache(const Chunk& chunk, int64_t sequences,
                                              int64_t capacity) const;
  [[nodiscard]] std::vector<std::vector<size_t>> groups(int64_t at_once) const;

  Run& run_;
  const RunOptions& options_;
  std::span<const int64_t> ends_;
  SharedRows shared_;
  int64_t prefix_;
  std::vector<int64_t> joins_;  // of each arm, the first layer that has rows of it
};

}  // namespace cna
