/// Contrastive attribution: how much each neuron tells two sets of prompts apart, and the top few.
///
///   delta[l, j] = mean of a[l, j] over positive prompts - mean over negative prompts      (Eq. 1)
///   circuit     = the k neurons with the largest |delta| over all layers together
///
/// Rows of every grid are layers, columns are neurons of a layer; `Array` is a Grid on the host or
/// a tensor on a device. Source: "Targeted Neuron Modulation via Contrastive Pair Search", arXiv
/// 2605.12290, section 3.1.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "cna/error.hpp"
#include "cna/grid.hpp"
#include "cna/moments.hpp"
#include "cna/neuron.hpp"

namespace cna {

/// Eq. 1: positive mean minus negative mean [layers, width]. Throws ValueError if a set is empty or
/// the shapes differ.
template <GridArray Array>
[[nodiscard]] Array mean_difference(const Moments<Array>& positive, const Moments<Array>& negative);

/// Cohen's d [layers, width]: the mean difference over the pooled unbiased standard deviation,
///   sd^2 = (m2_positive + m2_negative) / (n_positive + n_negative - 2).
/// Always finite for finite input: where sd is 0, d is 0 if the means are equal, and otherwise the
/// largest finite double with the sign of the difference, so such a neuron ranks first.
/// Throws ValueError if a set has fewer than two samples or the shapes differ.
template <GridArray Array>
[[nodiscard]] Array effect_size(const Moments<Array>& positive, const Moments<Array>& negative);

/// How many neurons a fraction of the model is: max(1, round(fraction * neurons)), halves to
/// the even neighbour as in Python and NumPy. Throws ValueError unless 0 < fraction <= 1.
[[nodiscard]] inline int64_t circuit_size(const GridShape& shape, double fraction);

/// The `k` neurons with the largest |score| over all layers together, strongest first; ties go to
/// the lower layer, then the lower index. Each keeps its entry of `delta`. `excluded` neurons are
/// left out before the k are taken, so the result always has k neurons. `shape` says which entries
/// are neurons where layers differ in width; null: all are.
/// Throws ValueError if a score is NaN or infinite, or k is not between 1 and the neurons left;
/// IndexError if an excluded neuron lies outside the grid.
template <GridArray Array>
[[nodiscard]] std::vector<Neuron> top_k(const Array& score, const Array& delta, int64_t k,
                                        const NeuronSet* excluded = nullptr,
                                        const GridShape* shape = nullptr);

/// The `k` neurons with the largest |delta|: the score is the contrast itself.
template <GridArray Array>
[[nodiscard]] std::vector<Neuron> top_k(const Array& delta, int64_t k,
                                        const NeuronSet* excluded = nullptr) {
  return top_k(delta, delta, k, excluded);
}

/// Both for blocks and expressions of Eigen.
[[nodiscard]] inline std::vector<Neuron> top_k(const Eigen::Ref<const Grid>& score,
                                               const Eigen::Ref<const Grid>& delta, int64_t k,
                                               const NeuronSet* excluded = nullptr) {
  return top_k(Grid(score), Grid(delta), k, excluded);
}
[[nodiscard]] inline std::vector<Neuron> top_k(const Eigen::Ref<const Grid>& delta, int64_t k,
                                               const NeuronSet* excluded = nullptr) {
  return top_k(Grid(delta), k, excluded);
}

// ---------------------------------------------------------------------------------------------

namespace detail {

template <class Array>
void require_pair(const char* function, const Moments<Array>& positive,
                  const Moments<Array>& negative, int64_t least) {
  using Traits = ArrayTraits<Array>;
  if (positive.count() < least || negative.count() < least) {
    throw_value_error(
        "{}: expected {} or more samples per set, got {} positive and {} negative; "
        "add prompts",
        function, least, positive.count(), negative.count());
  }
  if (!Traits::same_shape(positive.mean(), negative.mean())) {
    throw_value_error("{}: expected both sets from one model, got shapes {} and {}; record again",
                      function, Traits::shape_text(positive.mean()),
                      Traits::shape_text(negative.mean()));
  }
}

/// Flat places of the excluded neurons; throws IndexError if one lies outside.
inline std::vector<int64_t> places_of(const GridShape& shape, const NeuronSet* excluded) {
  std::vector<int64_t> places;
  if (excluded == nullptr) return places;
  for (const NeuronId id : *excluded) {
    if (!shape.contains(id.layer, id.index)) {
      throw_index_error(
          "top_k: expected excluded neurons inside the {} grid, got ({}, {}); "
          "use a set found on this model",
          shape.text(), id.layer, id.index);
    }
    places.push_back(shape.place(id.layer, id.index));
  }
  return places;
}

}  // namespace detail

template <GridArray Array>
Array mean_difference(const Moments<Array>& positive, const Moments<Array>& negative) {
  detail::require_pair("mean_difference", positive, negative, 1);
  return positive.mean() - negative.mean();
}

template <GridArray Array>
Array effect_size(const Moments<Array>& positive, const Moments<Array>& negative) {
  detail::require_pair("effect_size", positive, negative, 2);
  const double freedom = static_cast<double>(positive.count() + negative.count() - 2);
  return ArrayTraits<Array>::standardised(positive.mean() - negative.mean(),
                                          (positive.m2() + negative.m2()) / freedom);
}

int64_t circuit_size(const GridShape& shape, double fraction) {
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

template <GridArray Array>
std::vector<Neuron> top_k(const Array& score, const Array& delta, int64_t k,
                          const NeuronSet* excluded, const GridShape* of_model) {
  using Traits = ArrayTraits<Array>;
  if (!Traits::same_shape(score, delta)) {
    throw_value_error(
        "top_k: expected score and delta of one shape, got {} and {}; "
        "compute both from the same recordings",
        Traits::shape_text(score), Traits::shape_text(delta));
  }
  const GridShape whole{Traits::rows(score), Traits::columns(score)};
  const GridShape& shape = of_model ? *of_model : whole;
  if (shape.layers != whole.layers || shape.width != whole.width) {
    throw_value_error("top_k: expected scores of a {} grid, got {}; pass those of the model",
                      shape.text(), Traits::shape_text(score));
  }
  const std::vector<int64_t> left_out = detail::places_of(shape, excluded);
  const int64_t available = shape.size() - static_cast<int64_t>(left_out.size());
  if (k < 1 || k > available) {
    throw_value_error(
        "top_k: expected k between 1 and the {} neurons available, got {}; choose "
        "another k or exclude fewer neurons",
        available, k);
  }
  if (const auto bad = Traits::first_not_finite(score)) {
    throw_value_error(
        "top_k: expected finite scores, got {} at layer {}, neuron {}; check the "
        "activations for overflow, or use a wider dtype",
        bad->second, bad->first / shape.width, bad->first % shape.width);
  }
  Array strength = Traits::as_row(Traits::magnitude(score));
  Traits::fill(strength, left_out, -1.0);  // below every magnitude
  Traits::fill(strength, shape.gaps(), -1.0);
  const std::vector<int64_t> places = Traits::to_vector(Traits::top_of_rows(strength, k).columns);
  const std::vector<double> strengths = Traits::values_at(strength, places);
  const std::vector<double> deltas = Traits::values_at(delta, places);
  std::vector<std::size_t> order(places.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  // Places ascend, so a stable sort leaves ties at the lower layer, then the lower index.
  std::stable_sort(order.begin(), order.end(),
                   [&](std::size_t a, std::size_t b) { return strengths[a] > strengths[b]; });
  std::vector<Neuron> result;
  result.reserve(order.size());
  for (const std::size_t i : order) {
    result.push_back({static_cast<int32_t>(places[i] / shape.width),
                      static_cast<int32_t>(places[i] % shape.width), deltas[i]});
  }
  return result;
}

}  // namespace cna
