/// Count, mean and squared deviation of a stream of arrays, gathered in one pass and mergeable.
///
///   mean = sum(x) / n        m2 = sum((x - mean)^2)        variance = m2 / (n - 1)
///
/// `Array` is cna::Grid on the host or a float64 at::Tensor on a device: one source serves both,
/// through ArrayTraits. Entries never mix. Update: Welford 1962. Merge: Chan, Golub and LeVeque
/// 1983. GroupedMoments keeps them apart for several sets of prompts, layer by layer.
#pragma once

#include <algorithm>
#include <cstdint>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "cna/error.hpp"
#include "cna/grid.hpp"

namespace cna {

template <GridArray Array>
class Moments {
  using Traits = ArrayTraits<Array>;

 public:
  /// No samples yet; takes its shape from the first one.
  Moments() = default;

  /// Moments computed elsewhere: `m2` is the sum of squared deviations from `mean`. Shares tensors
  /// with the caller, who must not write to them later.
  /// Throws ValueError if `count` is negative or the shapes differ.
  [[nodiscard]] static Moments of(int64_t count, Array mean, Array m2) {
    if (count < 0) {
      throw_value_error("Moments::of: expected a count of 0 or more, got {}; count the samples",
                        count);
    }
    Moments result;
    if (count == 0) return result;
    if (!Traits::same_shape(mean, m2)) {
      throw_value_error("Moments::of: expected mean and m2 of one shape, got {} and {}; pass both",
                        Traits::shape_text(mean), Traits::shape_text(m2));
    }
    result.count_ = count;
    result.mean_ = std::move(mean);
    result.m2_ = std::move(m2);
    return result;
  }

  /// Moments of the rows of `batch` [rows, columns], one sample each.
  [[nodiscard]] static Moments of_rows(const Array& batch) {
    auto [mean, m2] = Traits::mean_and_m2(batch);
    return of(Traits::rows(batch), std::move(mean), std::move(m2));
  }

  /// Takes in one sample; throws ValueError if its shape differs from the earlier ones.
  void add(const Array& sample) {
    if (count_ == 0) {
      mean_ = Traits::copy(sample);
      m2_ = sample - sample;
      count_ = 1;
      return;
    }
    require_shape("add", sample);
    const double n = static_cast<double>(count_ + 1);
    const Array before = sample - mean_;
    Array mean = mean_ + before / n;
    Array m2 = m2_ + before * (sample - mean);
    count_ += 1;
    mean_ = std::move(mean);
    m2_ = std::move(m2);
  }

  /// Takes in all samples of `other`; an empty side leaves the other one exactly as it is.
  void merge(const Moments& other) {
    if (other.count_ == 0) return;
    if (count_ == 0) {
      *this = other;
      return;
    }
    require_shape("merge", other.mean_);
    const double left = static_cast<double>(count_);
    const double right = static_cast<double>(other.count_);
    const double total = left + right;
    const Array gap = other.mean_ - mean_;
    Array mean = mean_ + gap * (right / total);
    Array m2 = m2_ + other.m2_ + gap * gap * (left * right / total);
    count_ += other.count_;
    mean_ = std::move(mean);
    m2_ = std::move(m2);
  }

  [[nodiscard]] int64_t count() const { return count_; }

  /// The mean, in the shape of a sample; a default array while there are no samples.
  [[nodiscard]] const Array& mean() const { return mean_; }

  /// The sum of squared deviations from the mean, in the shape of a sample.
  [[nodiscard]] const Array& m2() const { return m2_; }

  /// The unbiased variance m2 / (n - 1); throws ValueError for fewer than two samples.
  [[nodiscard]] Array variance() const {
    if (count_ < 2) {
      throw_value_error("Moments::variance: expected 2 samples or more, got {}; add more samples",
                        count_);
    }
    return m2_ / static_cast<double>(count_ - 1);
  }

 private:
  void require_shape(const char* function, const Array& sample) const {
    if (!Traits::same_shape(mean_, sample)) {
      throw_value_error(
          "Moments::{}: expected shape {} as before, got {}; use one Moments per model", function,
          Traits::shape_text(mean_), Traits::shape_text(sample));
    }
  }

  int64_t count_ = 0;
  Array mean_;
  Array m2_;
};

/// Moments of several sets of prompts at once, layer by layer: an accumulator for `record`.
template <GridArray Array>
class GroupedMoments {
  using Traits = ArrayTraits<Array>;

 public:
  /// @param group_of_prompt  the set of each prompt, 0, 1, ...; a negative number leaves it out.
  explicit GroupedMoments(std::vector<int> group_of_prompt)
      : group_of_prompt_(std::move(group_of_prompt)) {
    for (const int group : group_of_prompt_)
      if (group >= static_cast<int>(layers_.size()))
        layers_.resize(static_cast<std::size_t>(group) + 1);
    rows_.resize(layers_.size());
  }

  /// Takes in one layer [rows, features] of the prompts with these numbers.
  void add(int64_t layer, std::span<const int64_t> prompts, const Array& activations) {
    // A batch begins with its first layer.
    if (layer == 0 || !std::equal(prompts.begin(), prompts.end(), prompts_.begin(), prompts_.end()))
      deal(prompts, activations);
    for (std::size_t group = 0; group < layers_.size(); ++group) {
      auto& layers = layers_[group];
      if (layers.size() <= static_cast<std::size_t>(layer))
        layers.resize(static_cast<std::size_t>(layer) + 1);
      if (!rows_[group]) continue;
      layers[static_cast<std::size_t>(layer)].merge(
          Moments<Array>::of_rows(Traits::take_rows(activations, *rows_[group])));
    }
  }
  void end_batch() {
    prompts_.clear();
    rows_.assign(layers_.size(), std::nullopt);
  }

  /// One Moments per layer, each over [features].
  [[nodiscard]] const std::vector<Moments<Array>>& by_layer(int group) const {
    return layers_.at(static_cast<std::size_t>(group));
  }

  /// The layers of one set together, [layers, features]; they must be equally wide.
  [[nodiscard]] Moments<Array> together(int group) const {
    std::vector<Array> means, m2s;
    int64_t count = 0;
    for (const Moments<Array>& layer : by_layer(group)) {
      means.push_back(layer.mean());
      m2s.push_back(layer.m2());
      count = layer.count();
    }
    if (count == 0) return {};
    return Moments<Array>::of(count, Traits::stack(means), Traits::stack(m2s));
  }

 private:
  /// Which rows of a batch belong to which set: once for all its layers.
  void deal(std::span<const int64_t> prompts, const Array& activations) {
    std::vector<std::vector<int64_t>> mine(layers_.size());
    for (std::size_t i = 0; i < prompts.size(); ++i) {
      const int group = group_of_prompt_.at(static_cast<std::size_t>(prompts[i]));
      if (group >= 0) mine[static_cast<std::size_t>(group)].push_back(static_cast<int64_t>(i));
    }
    rows_.assign(layers_.size(), std::nullopt);
    for (std::size_t group = 0; group < mine.size(); ++group)
      if (!mine[group].empty()) rows_[group] = Traits::numbers_beside(activations, mine[group]);
    prompts_.assign(prompts.begin(), prompts.end());
  }

  std::vector<int> group_of_prompt_;
  std::vector<std::vector<Moments<Array>>> layers_;          // [groups][layers]
  std::vector<int64_t> prompts_;                             // of the batch under way
  std::vector<std::optional<typename Traits::Index>> rows_;  // [groups], its rows in the batch
};

}  // namespace cna
