/// Universal neurons: those that fire hard whatever the prompt is, and so belong to no behaviour.
///
///   hit[p, l, j] = |a[l, j]| of prompt p is among the top 0.1 % of all layers * width neurons
///   universal    = neurons with sum over prompts of hit >= ceil(0.8 * prompts)
///
/// Rows of the counts are layers, columns are neurons of a layer. Source: arXiv 2605.12290, section
/// 3.2. Gurnee et al. 2024 use "universal neuron" for something else: one shared between models.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "cna/attribution.hpp"
#include "cna/error.hpp"
#include "cna/grid.hpp"
#include "cna/neuron.hpp"

namespace cna {

/// One whole number per neuron [layers, width], stored row by row.
using CountGrid = Eigen::Array<int32_t, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

/// In how many of `prompts` prompts a neuron must be a hit: ceil(share * prompts), at least 1.
/// Throws ValueError unless 0 < share <= 1 and there are at least `minimum_prompts` prompts.
[[nodiscard]] inline int64_t universal_threshold(int64_t prompts, double share,
                                                 int64_t minimum_prompts = 10) {
  if (!(share > 0.0 && share <= 1.0)) {
    throw_value_error(
        "universal: expected a share above 0 and up to 1, got {}; 0.8 is the "
        "paper's",
        share);
  }
  const int64_t least = std::max<int64_t>(1, minimum_prompts);
  if (prompts < least) {
    throw_value_error("universal: expected {} or more prompts, got {}; add diverse prompts", least,
                      prompts);
  }
  // The guard keeps ceil(0.8 * 10) at 8 where the product lands just above a whole number.
  const double exact = std::ceil(share * static_cast<double>(prompts) - 1e-9);
  return std::max<int64_t>(1, static_cast<int64_t>(exact));
}

/// Counts hits. `Array` is a Grid on the host or a tensor on a device, which activations then never
/// leave. As an accumulator for `record` it takes a batch layer by layer and keeps each prompt's
/// strongest so far: [rows, top] numbers, not all layers.
template <GridArray Array>
class BasicUniversalCounter {
  using Traits = ArrayTraits<Array>;

 public:
  using Counts = typename Traits::Index;

  /// Counts the top `top_fraction` of each prompt; throws ValueError outside 0 < fraction <= 1.
  explicit BasicUniversalCounter(GridShape shape, double top_fraction = 0.001)
      : shape_(shape),
        top_(circuit_size(shape, top_fraction)),
        counts_(
            Traits::counts_from(std::vector<int64_t>(static_cast<std::size_t>(shape.places())))) {}

  /// The same counts in another kind of array.
  template <GridArray Other>
  explicit BasicUniversalCounter(const BasicUniversalCounter<Other>& other)
      : shape_(other.shape()),
        top_(other.top()),
        prompts_(other.prompts()),
        counts_(Traits::counts_from(other.hits())) {}

  /// Takes in one layer [rows, width] of a batch; layers ascend, then comes `end_batch`. Ties go
  /// to the lower layer, then the lower index. Throws ValueError for another layer or width.
  void add(int64_t layer, std::span<const int64_t> /*prompts*/, const Array& activations) {
    if (Traits::columns(activations) != shape_.width || layer < 0 || layer >= shape_.layers) {
      throw_value_error(
          "UniversalCounter::add: expected {} activations in a layer below {}, got {} in layer "
          "{}; count on the model that the counter was made for",
          shape_.width, shape_.layers, Traits::columns(activations), layer);
    }
    strongest_ = Traits::beside(strongest_, Traits::magnitude(activations));
    places_ = Traits::beside(places_, Traits::count_up(activations, layer * shape_.width));
    if (Traits::columns(strongest_) <= top_) return;
    auto best = Traits::top_of_rows(strongest_, top_);
    places_ = Traits::gather(places_, best.columns);
    strongest_ = std::move(best.values);
  }

  /// Counts the strongest of each prompt of the batch.
  void end_batch() {
    Traits::count(counts_, places_);
    prompts_ += Traits::rows(strongest_);
    strongest_ = Array();
    places_ = Counts();
  }

  /// Takes in all prompts of `other`; throws ValueError unless shape and top fraction agree.
  void merge(const BasicUniversalCounter& other) {
    if (shape_ != other.shape_ || top_ != other.top_) {
      throw_value_error(
          "UniversalCounter::merge: expected the top {} of a {} grid, got the "
          "top {} of {}; count with the same model and fraction",
          top_, shape_.text(), other.top_, other.shape_.text());
    }
    counts_ = counts_ + other.counts_;
    prompts_ += other.prompts_;
  }

  [[nodiscard]] const GridShape& shape() const { return shape_; }

  /// How many neurons of each prompt count as a hit: max(1, round(top_fraction * layers * width)).
  [[nodiscard]] int64_t top() const { return top_; }

  [[nodiscard]] int64_t prompts() const { return prompts_; }

  /// For each neuron, the number of prompts that had it among their top, [layers * width].
  [[nodiscard]] std::vector<int64_t> hits() const { return Traits::to_vector(counts_); }

  /// The neurons hit in at least ceil(share * prompts) prompts, by layer, then index.
  /// Throws ValueError unless 0 < share <= 1 and at least `minimum_prompts` prompts were added.
  [[nodiscard]] std::vector<NeuronId> universal(double share = 0.8,
                                                int64_t minimum_prompts = 10) const {
    const int64_t least = universal_threshold(prompts_, share, minimum_prompts);
    const std::vector<int64_t> counts = hits();
    std::vector<NeuronId> result;
    for (int64_t place = 0; place < shape_.places(); ++place) {
      const int64_t layer = place / shape_.width, index = place % shape_.width;
      if (counts[static_cast<std::size_t>(place)] >= least && shape_.contains(layer, index))
        result.push_back({static_cast<int32_t>(layer), static_cast<int32_t>(index)});
    }
    return result;
  }

 private:
  GridShape shape_;
  int64_t top_ = 0;
  int64_t prompts_ = 0;
  Counts counts_;    // [1, layers * width]
  Array strongest_;  // [rows, up to top], of the batch under way
  Counts places_{};  // [rows, up to top], their flat places
};

/// The counter on the host, also for activations that come as plain numbers.
class UniversalCounter : public BasicUniversalCounter<Grid> {
 public:
  using BasicUniversalCounter<Grid>::BasicUniversalCounter;
  using BasicUniversalCounter<Grid>::add;

  /// What was counted elsewhere, for instance on a device.
  template <GridArray Array>
  explicit UniversalCounter(const BasicUniversalCounter<Array>& other)
      : BasicUniversalCounter<Grid>(other) {}

  /// For each neuron, the number of prompts that had it among their top [layers, width].
  [[nodiscard]] CountGrid counts() const {
    const std::vector<int64_t> all = hits();
    using Row = Eigen::Array<int64_t, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
    return Eigen::Map<const Row>(all.data(), shape().layers, shape().width).cast<int32_t>();
  }

  /// Takes in one prompt: its activations [layers * width], layer by layer. Throws ValueError for
  /// another length, or for a NaN or an infinity.
  void add(std::span<const float> activations) {
    if (static_cast<int64_t>(activations.size()) != shape().places()) {
      throw_value_error(
          "UniversalCounter::add: expected {} x {} = {} activations, got {}; pass "
          "those of one prompt",
          shape().layers, shape().width, shape().places(), activations.size());
    }
    for (int64_t i = 0; i < shape().places(); ++i) {
      const float value = activations[static_cast<std::size_t>(i)];
      if (!std::isfinite(value)) {
        throw_value_error(
            "UniversalCounter::add: expected finite activations, got {} at layer {}, "
            "neuron {}; check the model for overflow, or use a wider dtype",
            value, i / shape().width, i % shape().width);
      }
    }
    using FloatRow = Eigen::Array<float, 1, Eigen::Dynamic>;
    for (int64_t layer = 0; layer < shape().layers; ++layer) {
      const float* first = activations.data() + layer * shape().width;
      const Grid row = Eigen::Map<const FloatRow>(first, shape().width).cast<double>();
      add(layer, {}, row);
    }
    end_batch();
  }
};

}  // namespace cna
