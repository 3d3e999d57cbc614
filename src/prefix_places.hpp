/// Where the rows of a batch find the keys and values of the tokens that all prompts begin with.
/// Private to the library.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

namespace cna {

/// Places `begin` to `end` of the rows of a batch, each row behind its own padding.
class PrefixPlaces {
 public:
  /// @param arms     of each row; empty: all are of the first
  /// @param padding  tokens before each row's first
  /// @param prefix   tokens that were computed
  PrefixPlaces(std::vector<int64_t> arms, std::vector<int64_t> padding, int64_t begin, int64_t end,
               int64_t prefix);

  /// Copies what the prefix left, [arms, heads, prefix, dim], to its places in the rows, [rows,
  /// heads, end - begin, dim]. In the place of padding stands what is never looked at, but finite.
  void copy(const at::Tensor& filled, const at::Tensor& to);

 private:
  [[nodiscard]] at::Tensor gathered(const at::Tensor& filled, int64_t rows);

  std::vector<int64_t> arms_, padding_;
  int64_t begin_, end_;
  bool moved_;              // some row begins elsewhere than the prefix
  at::Tensor arm_, token_;  // of each row, and of its places: for `gathered`, where those lie
};

}  // namespace cna
