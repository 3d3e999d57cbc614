/// Steps of one token, captured for some number of rows and places and replayed. Private to the
/// library.
///
/// A replayed step reads and writes the memory that it was captured with, so each bucket keeps
/// tensors of its own: tokens, mask, keys and values, edits, logits. Rows and places are rounded
/// up, so that few buckets serve a run; a row that nobody needs computes what nobody reads.
#pragma once

#include <memory>
#include <vector>

#include "cna/torch/capture.hpp"
#include "cna/torch/host.hpp"
#include "cna/torch/tap.hpp"

namespace cna {

/// What a bucket's steps stand on.
struct Bucket {
  int64_t rows, places;
  Step step;                   ///< [rows, 1] tokens, [rows, places] mask, places of a new token [1]
  std::vector<TapEdit> edits;  ///< of [rows or 1, 1, features]
  int64_t steering = -1;       ///< which of the run's steerings the edits are
  at::Tensor logits;           ///< [rows, 1, vocab], of the last step
  bool warm = false;           ///< has run, so that nothing is set up for the first time
  std::unique_ptr<Captured> captured;

  /// Sets what changes from step to step: the tokens [n, 1], their positions, and their place.
  void feed(const at::Tensor& ids, const at::Tensor& positions, int64_t place);
};

class Replays {
 public:
  Replays(const char* function, Host& host, Capture capture)
      : function_(function), host_(host), capture_(std::move(capture)) {}

  /// The smallest with room for these rows and places; made where there is none, in place of those
  /// that nobody uses any more: of fewer places, or where the device is full, of other rows too.
  [[nodiscard]] std::shared_ptr<Bucket> bucket(int64_t rows, int64_t places);

  /// Logits [rows of the bucket, 1, vocab] of its step under these edits of its first rows; valid
  /// until its next step.
  /// @param steering  another number wherever the edits are others
  [[nodiscard]] at::Tensor run(Bucket& bucket, const std::vector<TapEdit>& edits, int64_t steering);

 private:
  [[nodiscard]] std::shared_ptr<Bucket> make(int64_t rows, int64_t places) const;
  /// Drops buckets of this kind that nobody uses, and says how many.
  template <class Which>
  size_t forget(const Which& which);
  void capture(Bucket& bucket);

  const char* function_;  // the caller's name
  Host& host_;
  Capture capture_;
  std::vector<std::shared_ptr<Bucket>> buckets_;
};

}  // namespace cna
