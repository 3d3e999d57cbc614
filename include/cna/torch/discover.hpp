/// Discovery: from two sets of prompts to the circuit that tells them apart.
///
///   prompts -> recorder -> moments (float64) -> delta -> without universal neurons -> top k
///
/// One pass over all prompts, so that both sets share their common prefix; means, filter and top k
/// are taken on the model's device. Source: arXiv 2605.12290, section 3, equation 1.
#pragma once

#include <optional>
#include <span>
#include <vector>

#include "cna/attribution.hpp"
#include "cna/circuit.hpp"
#include "cna/contribution.hpp"
#include "cna/moments.hpp"
#include "cna/torch/recorder.hpp"
#include "cna/universal.hpp"

namespace cna {

/// Moments [layers, features] of the activations of the two sets, on the host or on a device.
template <GridArray Array>
struct ContrastOf {
  Moments<Array> positive;
  Moments<Array> negative;
};
using Contrast = ContrastOf<Grid>;
using DeviceContrast = ContrastOf<at::Tensor>;

/// Records both sets at a site and keeps only their moments, float64 on the model's device.
/// @throws ValueError for an empty set; else as `record`.
[[nodiscard]] CNA_API DeviceContrast device_contrast(Model& model,
                                                     std::span<const TokenIds> positive,
                                                     std::span<const TokenIds> negative,
                                                     const RunOptions& options = {},
                                                     Site site = Site::neuron);

/// The same, brought to the host.
[[nodiscard]] inline Contrast contrast(Model& model, std::span<const TokenIds> positive,
                                       std::span<const TokenIds> negative,
                                       const RunOptions& options = {}, Site site = Site::neuron) {
  const DeviceContrast both = device_contrast(model, positive, negative, options, site);
  const auto host = [](const Moments<at::Tensor>& m) {
    return Moments<Grid>::of(m.count(), to_grid(m.mean()), to_grid(m.m2()));
  };
  return {host(both.positive), host(both.negative)};
}

/// Counts how often each neuron is in a prompt's top `top_fraction`; `UniversalCounter::universal`
/// then names those that always are.
[[nodiscard]] inline UniversalCounter count_universal(Model& model,
                                                      std::span<const TokenIds> prompts,
                                                      double top_fraction = 0.001,
                                                      const RunOptions& options = {}) {
  BasicUniversalCounter<at::Tensor> counter(model.shape(), top_fraction);
  record(model, prompts, options, at<Site::neuron>(counter));
  return UniversalCounter(counter);
}

/// What neurons are ranked by.
enum class Ranking {
  mean_difference,  ///< |delta|, the paper's
  effect_size,      ///< delta / pooled standard deviation
  contribution,  ///< what zeroing takes from the answer, less what it disturbs (contribution.hpp)
  residual,      ///< |delta| as a share of the residual stream (ranking.hpp)
  direction      ///< what delta adds along a direction of the stream (ranking.hpp)
};

inline constexpr Ranking kRankings[] = {Ranking::mean_difference, Ranking::effect_size,
                                        Ranking::contribution, Ranking::residual,
                                        Ranking::direction};

/// Name in messages, files and Python.
[[nodiscard]] constexpr const char* ranking_name(Ranking ranking) {
  switch (ranking) {
    case Ranking::mean_difference:
      return "mean_difference";
    case Ranking::effect_size:
      return "effect_size";
    case Ranking::contribution:
      return "contribution";
    case Ranking::residual:
      return "residual";
    case Ranking::direction:
      return "direction";
  }
  return "unknown";
}

/// Whether it is made of the two sets' moments alone, without the model's weights.
[[nodiscard]] constexpr bool needs_moments_only(Ranking ranking) {
  return ranking == Ranking::mean_difference || ranking == Ranking::effect_size;
}

struct DiscoverOptions {
  double fraction = 0.001;               ///< of all neurons, 0 < fraction <= 1
  std::optional<int64_t> k = {};         ///< instead of a fraction: the number of neurons
  std::vector<NeuronId> universal = {};  ///< removed before the top k is taken
  Ranking ranking = Ranking::mean_difference;
  double penalty = 0.1;  ///< of a contribution: weight of what it disturbs
  /// Positive scores only, or both; default: positive for a contribution and a direction.
  std::optional<Side> side = {};
  LayerRange layers = {};                       ///< only neurons of these layers
  at::Tensor direction = {};                    ///< [hidden]; undefined: CAA's, of the two sets
  std::optional<int64_t> direction_layer = {};  ///< default: two thirds of the depth

  [[nodiscard]] int64_t layer_of_direction(int64_t depth) const {
    return direction_layer.value_or(2 * depth / 3);
  }
  [[nodiscard]] Side chosen_side() const {
    const bool one = ranking == Ranking::contribution || ranking == Ranking::direction;
    return side.value_or(one ? Side::positive : Side::both);
  }
};

/// The top k neurons of a contrast, with provenance of the model and the options.
/// @throws ValueError for a ranking that needs more than a contrast.
template <GridArray Array>
[[nodiscard]] Circuit select_circuit(const ModelInfo& model, const ContrastOf<Array>& contrast,
                                     const DiscoverOptions& options = {});

/// The same by a score of your own [layers, width].
template <GridArray Array>
[[nodiscard]] Circuit select_circuit(const ModelInfo& model, const ContrastOf<Array>& contrast,
                                     const Array& score, const DiscoverOptions& options);

/// Contrast and selection in one call.
/// @throws ValueError for bad prompts or options; else as `record`.
[[nodiscard]] CNA_API Circuit discover(Model& model, std::span<const TokenIds> positive,
                                       std::span<const TokenIds> negative,
                                       const DiscoverOptions& discovery = {},
                                       const RunOptions& options = {});

// ---------------------------------------------------------------------------------------------

namespace detail {
/// The provenance that a contrast's circuit has; k is its size.
[[nodiscard]] CNA_API Provenance discovery_provenance(const ModelInfo& model, int64_t k,
                                                      int64_t positive, int64_t negative,
                                                      const DiscoverOptions& options);

/// Throws ValueError if a chosen neuron has no score: there were fewer than k to choose from.
template <GridArray Array>
void require_scores(const std::vector<Neuron>& neurons, const Array& score, const GridShape& shape,
                    int64_t k) {
  std::vector<int64_t> places;
  for (const Neuron& n : neurons) places.push_back(shape.place(n.layer, n.index));
  int64_t scored = 0;
  for (const double value : ArrayTraits<Array>::values_at(score, places)) scored += value != 0.0;
  if (scored < k)
    throw_value_error(
        "discover: expected {} neurons with a score in these layers and on this side, got {}; "
        "choose a smaller k, or more layers",
        k, scored);
}
}  // namespace detail

template <GridArray Array>
Circuit select_circuit(const ModelInfo& model, const ContrastOf<Array>& contrast,
                       const DiscoverOptions& options) {
  if (!needs_moments_only(options.ranking))
    throw_value_error(
        "select: expected a ranking by the contrast alone, got '{}', which needs the model's "
        "weights; call discover",
        ranking_name(options.ranking));
  return select_circuit(model, contrast,
                        options.ranking == Ranking::effect_size
                            ? effect_size(contrast.positive, contrast.negative)
                            : mean_difference(contrast.positive, contrast.negative),
                        options);
}

template <GridArray Array>
Circuit select_circuit(const ModelInfo& model, const ContrastOf<Array>& contrast,
                       const Array& score, const DiscoverOptions& options) {
  const Array delta = mean_difference(contrast.positive, contrast.negative);
  const int64_t k = options.k ? *options.k : circuit_size(model.shape, options.fraction);
  const NeuronSet excluded(options.universal.begin(), options.universal.end());
  const Side side = options.chosen_side();
  const bool narrowed = side == Side::positive || !options.layers.whole(model.shape.layers);
  const Array allowed = narrowed ? restricted(score, side, options.layers) : score;
  std::vector<Neuron> neurons = top_k(allowed, delta, k, &excluded, &model.shape);
  if (narrowed) detail::require_scores(neurons, allowed, model.shape, k);
  // The neurons that the filter kept out: those that would have been taken without it.
  std::vector<NeuronId> removed;
  if (!excluded.empty()) {
    for (const Neuron& neuron : top_k(allowed, delta, k, nullptr, &model.shape)) {
      if (excluded.contains(neuron.id())) removed.push_back(neuron.id());
    }
  }
  return Circuit(model.shape, std::move(neurons),
                 detail::discovery_provenance(model, k, contrast.positive.count(),
                                              contrast.negative.count(), options),
                 std::move(removed));
}

}  // namespace cna
