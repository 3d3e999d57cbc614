/// Discovery: from two sets of prompts to the circuit that tells them apart.
///
///   prompts -> recorder -> moments (float64) -> delta -> without universal neurons -> top k
///
/// One pass over all prompts, so that both sets share their common prefix.
/// Source: arXiv 2605.12290, section 3, equation 1.
#pragma once

#include <optional>
#include <span>
#include <vector>

#include "cna/attribution.hpp"
#include "cna/circuit.hpp"
#include "cna/moments.hpp"
#include "cna/torch/model.hpp"
#include "cna/universal.hpp"

namespace cna {

/// Moments [layers, width] of the activations of the two sets.
struct Contrast {
  Moments<Grid> positive;
  Moments<Grid> negative;
};

/// Records both sets and keeps only their moments.
Contrast contrast(Model& model, std::span<const TokenIds> positive,
                  std::span<const TokenIds> negative, const RunOptions& options = {});

/// Counts how often each neuron is in a prompt's top `top_fraction`; `UniversalCounter::universal`
/// then names those that always are.
UniversalCounter count_universal(Model& model, std::span<const TokenIds> prompts,
                                 double top_fraction = 0.001, const RunOptions& options = {});

struct DiscoverOptions {
  double fraction = 0.001;           ///< of all neurons, 0 < fraction <= 1
  std::optional<int64_t> k;          ///< instead of a fraction: the number of neurons
  std::vector<NeuronId> universal;   ///< removed before the top k is taken
  bool rank_by_effect_size = false;  ///< rank by delta / pooled standard deviation
};

/// The top k neurons of a contrast, with provenance of the model and the options.
Circuit select_circuit(const ModelInfo& model, const Contrast& contrast,
                       const DiscoverOptions& options = {});

/// Contrast and selection in one call.
Circuit discover(Model& model, std::span<const TokenIds> positive,
                 std::span<const TokenIds> negative, const DiscoverOptions& discovery = {},
                 const RunOptions& options = {});

}  // namespace cna
