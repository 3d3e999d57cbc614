/// Random grids for tests, the same on every machine.
#pragma once

#include <random>
#include <vector>

#include "cna/neuron.hpp"

namespace cna::test {

using Random = std::mt19937_64;

/// A number from -1 to 1, in steps of 2^-52.
inline double uniform(Random& random) {
  return static_cast<double>(random() >> 11) * 0x1.0p-52 - 1.0;
}

/// Rows are layers, columns are neurons; every entry is uniform in [-1, 1] times `scale`.
inline Grid random_grid(Random& random, int64_t layers, int64_t width, double scale = 1.0) {
  return Grid::NullaryExpr(layers, width, [&] { return scale * uniform(random); });
}

inline std::vector<Grid> random_grids(Random& random, int count, int64_t layers, int64_t width) {
  std::vector<Grid> grids;
  for (int i = 0; i < count; ++i) grids.push_back(random_grid(random, layers, width));
  return grids;
}

}  // namespace cna::test
