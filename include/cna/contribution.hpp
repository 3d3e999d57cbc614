/// Contribution: what zeroing a neuron takes from an answer, less what that disturbs elsewhere.
///
///   score[l, j] = mean+(a_j) (write_j . u)  -  penalty * mean-(|a_j|) ||write_j||
///
/// write_j is the column of the layer's down projection, u the direction of unit length in the
/// residual stream along which the positive answer stands out. All is in the units of the residual
/// stream, so that neurons of unlike layers compare; |delta| has another unit in each layer.
#pragma once

#include "cna/error.hpp"
#include "cna/grid.hpp"

namespace cna {

/// What each neuron writes into the residual stream per unit of activation, [layers, width].
template <GridArray Array>
struct Writes {
  Array along;   ///< write . u
  Array length;  ///< ||write||
};

/// The score above [layers, width]; the mean of the positive set, the mean magnitude of the
/// negative one. Throws ValueError if shapes differ or the penalty is negative or not finite.
template <GridArray Array>
[[nodiscard]] Array contribution(const Array& positive_mean, const Array& negative_magnitude,
                                 const Writes<Array>& writes, double penalty = 0.1) {
  using Traits = ArrayTraits<Array>;
  if (!(penalty >= 0.0) || penalty > 1e6)
    throw_value_error("contribution: expected a penalty from 0 on, got {}; 0.1 is a good one",
                      penalty);
  for (const Array* other : {&negative_magnitude, &writes.along, &writes.length}) {
    if (!Traits::same_shape(positive_mean, *other))
      throw_value_error(
          "contribution: expected means and writes of one shape, got {} and {}; take both from one "
          "model",
          Traits::shape_text(positive_mean), Traits::shape_text(*other));
  }
  return positive_mean * writes.along - negative_magnitude * writes.length * penalty;
}

/// Which scores may be chosen.
enum class Side {
  both,     ///< by magnitude
  positive  ///< positive scores only
};

/// Layers that may be chosen, first and last included; last -1: to the end.
struct LayerRange {
  int64_t first = 0;
  int64_t last = -1;

  [[nodiscard]] bool whole(int64_t layers) const {
    return first == 0 && (last == -1 || last == layers - 1);
  }
};

/// The scores with 0 where the side or the layer rules a neuron out.
/// Throws IndexError for layers that the model does not have.
template <GridArray Array>
[[nodiscard]] Array restricted(const Array& score, Side side, LayerRange range) {
  using Traits = ArrayTraits<Array>;
  const int64_t layers = Traits::rows(score), width = Traits::columns(score);
  const int64_t last = range.last == -1 ? layers - 1 : range.last;
  if (range.first < 0 || last >= layers || range.first > last)
    throw_index_error("discover: expected layers between 0 and {}, got {} to {}; choose others",
                      layers - 1, range.first, range.last);
  Array out = side == Side::positive ? Array((score + Traits::magnitude(score)) * 0.5)
                                     : Traits::copy(score);
  std::vector<int64_t> outside;
  for (int64_t layer = 0; layer < layers; ++layer)
    for (int64_t j = 0; (layer < range.first || layer > last) && j < width; ++j)
      outside.push_back(layer * width + j);
  Traits::fill(out, outside, 0.0);
  return out;
}

}  // namespace cna
