/// Steering vectors (CAA): the residual-stream baseline that neuron circuits are compared with.
///
///   v[l] = mean of x[l] over positive prompts - mean over negative ones, at the last token
///   x[l] <- x[l] + c * v[l]   while the model runs; a negative c removes the behaviour
///
/// Canonical form: the residual stream behind one layer (Rimsky et al. 2024, arXiv 2312.06681). The
/// paper's authors add to every layer's MLP output at once.
#pragma once

#include <span>
#include <vector>

#include "cna/export.hpp"
#include "cna/torch/intervention.hpp"
#include "cna/torch/model.hpp"
#include "cna/torch/tokens.hpp"

namespace cna {

/// One direction per layer.
struct SteeringVectors {
  Site site = Site::residual;
  at::Tensor vectors;  ///< float64 [layers, features], on the CPU

  /// x <- x + c * v at the given layers together, one arm per coefficient.
  /// @throws IndexError for a layer that the model does not have.
  [[nodiscard]] CNA_API Intervention add(std::span<const int64_t> layers,
                                         std::span<const double> coefficients) const;
};

/// The mean difference of both sets at every layer, in one pass over the prompts.
/// @throws ValueError for an empty set, or where the model's residual stream was not found.
[[nodiscard]] CNA_API SteeringVectors steering_vectors(Model& model,
                                                       std::span<const TokenIds> positive,
                                                       std::span<const TokenIds> negative,
                                                       Site site = Site::residual,
                                                       const RunOptions& options = {});

}  // namespace cna
