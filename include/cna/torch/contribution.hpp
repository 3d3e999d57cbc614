/// Contributions of all neurons to what tells the positive prompts' answers apart.
///
///   u = W_U^T (p+ - p-) * g, of unit length      p: mean probability of the next token in a set
///                                                g: gain of the final norm
///
/// One pass over both sets gives the moments, the mean magnitudes and the probabilities; the write
/// vectors are then taken one layer at a time, so that memory does not grow with the model's depth.
#pragma once

#include <map>
#include <span>

#include "cna/contribution.hpp"
#include "cna/torch/discover.hpp"

namespace cna {

/// What a ranking by contribution is made of; tensors float64 on the model's device.
struct ContributionParts {
  DeviceContrast contrast;    ///< of the activations
  at::Tensor magnitude;       ///< mean |a| over the negative prompts, [layers, width]
  at::Tensor direction;       ///< u, [hidden]
  Writes<at::Tensor> writes;  ///< along u

  [[nodiscard]] at::Tensor score(double penalty) const {
    return contribution(contrast.positive.mean(), magnitude, writes, penalty);
  }
};

/// Records both sets and reads the weights.
/// @throws ValueError for an empty set, or sets whose next tokens are equally likely; Error where
///         the host does not know its weights; else as `record`.
[[nodiscard]] CNA_API ContributionParts contribution_parts(Model& model,
                                                           std::span<const TokenIds> positive,
                                                           std::span<const TokenIds> negative,
                                                           const RunOptions& options = {});

/// Write vectors of every layer along a direction of the residual stream [hidden].
/// @param scale  float64 [layers], mean of 1 / rms of each layer's MLP output, for models with a
///               norm behind the MLP; undefined where there is none
[[nodiscard]] CNA_API Writes<at::Tensor> writes_along(Model& model, const at::Tensor& direction,
                                                      const at::Tensor& scale = {});

/// What the circuit's difference of means writes into the residual stream behind each layer that
/// holds its neurons, sum_j delta_j write_j [hidden], float64 on the model's device. A shift by c
/// at these neurons adds -c times this there; of all neurons of a layer it is the MLP's part of
/// CAA.
/// @throws Error for a model with a norm behind the MLP, where what is written is no such sum.
[[nodiscard]] CNA_API std::map<int64_t, at::Tensor> difference_written(Model& model,
                                                                       const Circuit& circuit);

}  // namespace cna
