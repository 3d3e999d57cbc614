/// Contrastive attribution: how much each neuron tells two sets of prompts apart, and the top few.
///
///   delta[l, j] = mean of a[l, j] over positive prompts - mean over negative prompts      (Eq. 1)
///   circuit     = the k neurons with the largest |delta| over all layers together
///
/// Rows of every grid are layers, columns are neurons of a layer.
/// Source: "Targeted Neuron Modulation via Contrastive Pair Search", arXiv 2605.12290, section 3.1.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "cna/error.hpp"
#include "cna/moments.hpp"
#include "cna/neuron.hpp"

namespace cna {

/// Eq. 1: positive mean minus negative mean [layers, width]. Throws ValueError if a set is empty or
/// the shapes differ.
template <class Array>
[[nodiscard]] Array mean_difference(const Moments<Array>& positive, const Moments<Array>& negative);

/// Cohen's d [layers, width]: the mean difference over the pooled unbiased standard deviation,
///   sd^2 = (m2_positive + m2_negative) / (n_positive + n_negative - 2).
/// Always finite for finite input: where sd is 0, d is 0 if the means are equal, and otherwise the
/// largest finite double with the sign of the difference, so such a neuron ranks first.
/// Throws ValueError if a set has fewer than two samples or the shapes differ.
[[nodiscard]] inline Grid effect_size(const Moments<Grid>& positive, const Moments<Grid>& negative);

/// How many neurons a fraction of the model is: max(1, round(fraction * layers * width)), halves to
/// the even neighbour as in Python and NumPy. Throws ValueError unless 0 < fraction <= 1.
[[nodiscard]] inline int64_t circuit_size(GridShape shape, double fraction);

/// The `k` neurons with the largest |score| over all layers together, strongest first; ties go to
/// the lower layer, then the lower index. Each keeps its entry of `delta`. `excluded` neurons are
/// left out before the k are taken, so the result always has k neurons.
/// Throws ValueError if a score is NaN or infinite, or k is not between 1 and the neurons left;
/// IndexError if an excluded neuron lies outside the grid.
[[nodiscard]] inline std::vector<Neuron> top_k(const Eigen::Ref<const Grid>& score,
                                               const Eigen::Ref<const Grid>& delta, int64_t k,
                                               const NeuronSet* excluded = nullptr);

/// The `k` neurons with the largest |delta|: the score is the contrast itself.
[[nodiscard]] inline std::vector<Neuron> top_k(const Eigen::Ref<const Grid>& delta, int64_t k,
                                               const NeuronSet* excluded = nullptr);

// ---------------------------------------------------------------------------------------------

namespace detail {

template <class Array>
void require_pair(const char* function, const Moments<Array>& positive,
                  const Moments<Array>& negative, int64_t least) {
  if (positive.count() < least || negative.count() < least) {
    throw_value_error(
        "{}: expected {} or more samples per set, got {} positive and {} negative; "
        "add prompts",
        function, least, positive.count(), negative.count());
  }
  if (!same_shape(positive.mean(), negative.mean())) {
    throw_value_error("{}: expected both sets from one model, got shapes {} and {}; record again",
                      function, shape_text(positive.mean()), shape_text(negative.mean()));
  }
}

}  // namespace detail

template <class Array>
Array mean_difference(const Moments<Array>& positive, const Moments<Array>& negative) {
  detail::require_pair("mean_difference", positive, negative, 1);
  return positive.mean() - negative.mean();
}

Grid effect_size(const Moments<Grid>& positive, const Moments<Grid>& negative) {
  detail::require_pair("effect_size", positive, negative, 2);
  const double freedom = static_cast<double>(positive.count() + negative.count() - 2);
  Grid result = positive.mean() - negative.mean();
  const Grid sd = ((positive.m2() + negative.m2()) / freedom).sqrt();
  constexpr double most = std::numeric_limits<double>::max();
  for (Eigen::Index i = 0; i < result.size(); ++i) {
    double& d = result.data()[i];
    if (d == 0.0 || !std::isfinite(d)) continue;
    d /= sd.data()[i];
    if (std::isinf(d)) d = std::copysign(most, d);
  }
  return result;
}

int64_t circuit_size(GridShape shape, double fraction) {
  if (!(fraction > 0.0 && fraction <= 1.0)) {
    throw_value_error(
        "circuit_size: expected a fraction above 0 and up to 1, got {}; 0.001 is the "
        "paper's",
        fraction);
  }
  if (shape.layers < 1 || shape.width < 1) {
    throw_value_error(
        "circuit_size: expected at least one neuron, got a grid of {} x {}; pass the "
        "model's layers and width",
        shape.layers, shape.width);
  }
  const double exact = std::nearbyint(fraction * static_cast<double>(shape.size()));
  return std::max<int64_t>(1, static_cast<int64_t>(exact));
}

std::vector<Neuron> top_k(const Eigen::Ref<const Grid>& score, const Eigen::Ref<const Grid>& delta,
                          int64_t k, const NeuronSet* excluded) {
  if (score.rows() != delta.rows() || score.cols() != delta.cols()) {
    throw_value_error(
        "top_k: expected score and delta of one shape, got [{}, {}] and [{}, {}]; "
        "compute both from the same recordings",
        score.rows(), score.cols(), delta.rows(), delta.cols());
  }
  const GridShape shape{score.rows(), score.cols()};
  std::vector<bool> skipped(static_cast<std::size_t>(shape.size()), false);
  int64_t available = shape.size();
  if (excluded != nullptr) {
    for (const NeuronId id : *excluded) {
      if (!shape.contains(id.layer, id.index)) {
        throw_index_error(
            "top_k: expected excluded neurons inside the {} x {} grid, got ({}, {}); "
            "use a set found on this model",
            shape.layers, shape.width, id.layer, id.index);
      }
      skipped[static_cast<std::size_t>(id.layer * shape.width + id.index)] = true;
    }
    available -= static_cast<int64_t>(excluded->size());
  }
  if (k < 1 || k > available) {
    throw_value_error(
        "top_k: expected k between 1 and the {} neurons available, got {}; choose "
        "another k or exclude fewer neurons",
        available, k);
  }
  struct Candidate {
    double strength;
    int64_t position;
  };
  std::vector<Candidate> candidates;
  candidates.reserve(static_cast<std::size_t>(available));
  for (int64_t layer = 0; layer < shape.layers; ++layer) {
    for (int64_t index = 0; index < shape.width; ++index) {
      const double value = score(layer, index);
      if (!std::isfinite(value)) {
        throw_value_error(
            "top_k: expected finite scores, got {} at layer {}, neuron {}; check the "
            "activations for overflow, or use a wider dtype",
            value, layer, index);
      }
      const int64_t position = layer * shape.width + index;
      if (!skipped[static_cast<std::size_t>(position)]) {
        candidates.push_back({std::abs(value), position});
      }
    }
  }
  const auto before = [](const Candidate& a, const Candidate& b) {
    return a.strength != b.strength ? a.strength > b.strength : a.position < b.position;
  };
  const auto end = candidates.begin() + k;
  std::nth_element(candidates.begin(), end - 1, candidates.end(), before);
  std::sort(candidates.begin(), end, before);
  std::vector<Neuron> result;
  result.reserve(static_cast<std::size_t>(k));
  for (auto it = candidates.begin(); it != end; ++it) {
    const int64_t layer = it->position / shape.width;
    const int64_t index = it->position % shape.width;
    result.push_back(
        {static_cast<int32_t>(layer), static_cast<int32_t>(index), delta(layer, index)});
  }
  return result;
}

std::vector<Neuron> top_k(const Eigen::Ref<const Grid>& delta, int64_t k,
                          const NeuronSet* excluded) {
  return top_k(delta, delta, k, excluded);
}

}  // namespace cna
