/// Passes in which the arms of an intervention share what they do alike. Private to the library.
///
/// Below its first edit an arm computes what the unsteered model computes. So a pass begins with
/// unsteered rows alone, and an arm's rows join as copies of them behind the last layer that it
/// leaves as it is (`Taps::widen`): for texts that are given, where all arms see the same tokens.
/// Tokens that texts open with pass once, before them: shared_rows.hpp says which.
#pragma once

#include <functional>
#include <span>
#include <vector>

#include "run.hpp"
#include "shared_rows.hpp"

namespace cna {

class Fan {
 public:
  /// What a batch is scored by: its rows of the job, and logits [rows, k, vocab] at `keep`. Rows
  /// that are longer than others end with them; shorter ones have tokens that mean nothing behind.
  using Score = std::function<void(
      const Batch& batch, const std::function<at::Tensor(const at::Tensor& keep)>& logits)>;

  /// @param run       over all rows of the job, without a shared prefix of its own.
  /// @param prefix    tokens that all sequences begin with and no edit treats apart.
  /// @param openings  whether sequences of one prompt share it: each one's tokens behind the
  ///                  prompt then begin at its second new token.
  Fan(Run& run, const RunOptions& options, std::span<const int64_t> ends, SharedRows shared,
      int64_t prefix, bool openings);

  /// Goes through the job in batches; each has the first arm's rows before the others'.
  void each(const Score& score);

 private:
  struct Chunk;    // arms that pass together
  struct Opening;  // what their sequences begin with
  [[nodiscard]] Chunk chunk(std::span<const size_t> places) const;
  /// The openings of these sequences, up to `places` tokens, behind one that they all share.
  [[nodiscard]] Opening open(const Chunk& chunk, const Opening& before,
                             std::span<const size_t> sequences, int64_t places);
  void pass(const Chunk& chunk, const Opening& opening, std::span<const size_t> sequences,
            const Score& score);
  void arrange(const Chunk& chunk, int64_t sequences);
  void place(size_t sequence, const at::Tensor& positions);
  [[nodiscard]] std::vector<at::Tensor> cache(const Chunk& chunk, const Opening& opening,
                                              int64_t sequences, int64_t capacity) const;
  /// Tokens [sequences, to - from], int64; zeros behind the end of one.
  [[nodiscard]] at::Tensor tokens(std::span<const size_t> sequences, int64_t from,
                                  int64_t to) const;
  [[nodiscard]] size_t row_of(size_t sequence) const {
    return static_cast<size_t>(shared_.rows[sequence][0]);
  }

  Run& run_;
  const RunOptions& options_;
  std::span<const int64_t> ends_;
  SharedRows shared_;
  int64_t prefix_;
  bool openings_;
  std::vector<int64_t> joins_;  // of each arm, the first layer that has rows of it
};

}  // namespace cna
