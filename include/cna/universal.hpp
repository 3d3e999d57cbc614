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
#include <numeric>
#include <span>
#include <vector>

#include "cna/attribution.hpp"
#include "cna/error.hpp"
#include "cna/neuron.hpp"

namespace cna {

/// One whole number per neuron [layers, width], stored row by row.
using CountGrid = Eigen::Array<int32_t, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

class UniversalCounter {
 public:
  /// Counts the top `top_fraction` of each prompt; throws ValueError outside 0 < fraction <= 1.
  explicit UniversalCounter(GridShape shape, double top_fraction = 0.001)
      : shape_(shape),
        top_(circuit_size(shape, top_fraction)),
        counts_(CountGrid::Zero(shape.layers, shape.width)) {}

  /// Takes in one prompt: its activations [layers * width], layer by layer. Ties go to the lower
  /// position. Throws ValueError for another length, or for a NaN or an infinity.
  void add(std::span<const float> activations) {
    if (static_cast<int64_t>(activations.size()) != shape_.size()) {
      throw_value_error(
          "UniversalCounter::add: expected {} x {} = {} activations, got {}; pass "
          "those of one prompt",
          shape_.layers, shape_.width, shape_.size(), activations.size());
    }
    for (int64_t i = 0; i < shape_.size(); ++i) {
      const float value = activations[static_cast<std::size_t>(i)];
      if (!std::isfinite(value)) {
        throw_value_error(
            "UniversalCounter::add: expected finite activations, got {} at layer {}, "
            "neuron {}; check the model for overflow, or use a wider dtype",
            value, i / shape_.width, i % shape_.width);
      }
    }
    std::vector<int64_t> order(activations.size());
    std::iota(order.begin(), order.end(), int64_t{0});
    const auto before = [activations](int64_t a, int64_t b) {
      const float left = std::abs(activations[static_cast<std::size_t>(a)]);
      const float right = std::abs(activations[static_cast<std::size_t>(b)]);
      return left != right ? left > right : a < b;
    };
    std::nth_element(order.begin(), order.begin() + (top_ - 1), order.end(), before);
    for (int64_t i = 0; i < top_; ++i) counts_.data()[order[static_cast<std::size_t>(i)]] += 1;
    prompts_ += 1;
  }

  /// Takes in all prompts of `other`; throws ValueError unless shape and top fraction agree.
  void merge(const UniversalCounter& other) {
    if (shape_ != other.shape_ || top_ != other.top_) {
      throw_value_error(
          "UniversalCounter::merge: expected the top {} of a {} x {} grid, got the "
          "top {} of {} x {}; count with the same model and fraction",
          top_, shape_.layers, shape_.width, other.top_, other.shape_.layers, other.shape_.width);
    }
    counts_ += other.counts_;
    prompts_ += other.prompts_;
  }

  [[nodiscard]] GridShape shape() const { return shape_; }

  /// How many neurons of each prompt count as a hit: max(1, round(top_fraction * layers * width)).
  [[nodiscard]] int64_t top() const { return top_; }

  [[nodiscard]] int64_t prompts() const { return prompts_; }

  /// For each neuron, the number of prompts that had it among their top [layers, width].
  [[nodiscard]] const CountGrid& counts() const { return counts_; }

  /// The neurons hit in at least ceil(share * prompts) prompts, by layer, then index.
  /// Throws ValueError unless 0 < share <= 1 and at least `minimum_prompts` prompts were added.
  [[nodiscard]] std::vector<NeuronId> universal(double share = 0.8,
                                                int64_t minimum_prompts = 10) const {
    if (!(share > 0.0 && share <= 1.0)) {
      throw_value_error(
          "universal: expected a share above 0 and up to 1, got {}; 0.8 is the "
          "paper's",
          share);
    }
    if (prompts_ < std::max<int64_t>(1, minimum_prompts)) {
      throw_value_error("universal: expected {} or more prompts, got {}; add diverse prompts",
                        std::max<int64_t>(1, minimum_prompts), prompts_);
    }
    // The guard keeps ceil(0.8 * 10) at 8 where the product lands just above a whole number.
    const double least = std::ceil(share * static_cast<double>(prompts_) - 1e-9);
    const auto threshold = std::max<int64_t>(1, static_cast<int64_t>(least));
    std::vector<NeuronId> result;
    for (int64_t layer = 0; layer < shape_.layers; ++layer) {
      for (int64_t index = 0; index < shape_.width; ++index) {
        if (counts_(layer, index) >= threshold) {
          result.push_back({static_cast<int32_t>(layer), static_cast<int32_t>(index)});
        }
      }
    }
    return result;
  }

 private:
  GridShape shape_;
  int64_t top_ = 0;
  int64_t prompts_ = 0;
  CountGrid counts_;
};

}  // namespace cna
