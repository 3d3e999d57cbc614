/// Rankings in the units of the residual stream, of neurons whose write vectors are known.
///
///   residual:   score[l, j] = delta[l, j] ||write_j|| / mean ||x_l||
///   direction:  score[l, j] = delta[l, j] (write_j . v) / ||v||     for layers up to that of v
///
/// x_l is the residual stream behind layer l, the mean is over both sets. v is a direction of the
/// stream behind one layer, CAA's difference of means unless another is given. Summed over all
/// neurons, the second score is the MLPs' part of that difference; a circuit covers a share of it.
#pragma once

#include <optional>
#include <span>

#include "cna/torch/discover.hpp"

namespace cna {

/// A signed score per neuron [layers, width] beside the moments of the two sets; float64 tensors on
/// the model's device.
struct ScoredContrast {
  DeviceContrast contrast;
  at::Tensor score;
};

/// The score of the options' ranking, whichever that is.
/// @throws as `discover`.
[[nodiscard]] CNA_API ScoredContrast score_neurons(Model& model, std::span<const TokenIds> positive,
                                                   std::span<const TokenIds> negative,
                                                   const DiscoverOptions& discovery,
                                                   const RunOptions& options = {});

/// The top k of these scores; of a direction the provenance says how much the circuit covers.
[[nodiscard]] CNA_API Circuit select_scored(const ModelInfo& model, const ScoredContrast& scored,
                                            const DiscoverOptions& discovery);

/// By what share of its layer's residual stream a neuron's difference moves it.
/// @throws Error where the host does not know its weights or its residual stream; else as `record`.
[[nodiscard]] CNA_API ScoredContrast residual_score(Model& model,
                                                    std::span<const TokenIds> positive,
                                                    std::span<const TokenIds> negative,
                                                    const RunOptions& options = {});

/// What a neuron's difference adds along a direction of the stream behind a layer.
/// @param layer   the direction's; neurons of later layers score 0
/// @param vector  [hidden], of any length but 0; undefined: the difference of the two sets' means
/// @throws IndexError for a layer that there is not, ValueError for a vector of another size or of
///         zeros; else as above.
[[nodiscard]] CNA_API ScoredContrast direction_score(Model& model,
                                                     std::span<const TokenIds> positive,
                                                     std::span<const TokenIds> negative,
                                                     int64_t layer, const at::Tensor& vector = {},
                                                     const RunOptions& options = {});

/// The share of the scores' sum that the circuit's neurons hold: of a direction, how much of the
/// MLPs' part the circuit covers. Above 1 where the rest works against it; NaN where the sum is 0.
[[nodiscard]] CNA_API double coverage(const at::Tensor& score, const Circuit& circuit);

}  // namespace cna
