/// Count, mean and squared deviation of a stream of arrays, gathered in one pass and mergeable.
///
///   mean = sum(x) / n        m2 = sum((x - mean)^2)        variance = m2 / (n - 1)
///
/// `Array` is cna::Grid on the host or a float64 at::Tensor on a device: one source serves both,
/// because only `+ - *`, division by a double, copies and a shape check are used. Entries never
/// mix. Update: Welford 1962. Merge: Chan, Golub and LeVeque 1983.
#pragma once

#include <cstdint>
#include <string>
#include <utility>

#include "cna/error.hpp"

namespace cna {

namespace detail {
template <class Array>
bool same_shape(const Array& a, const Array& b);
template <class Array>
std::string shape_text(const Array& array);
}  // namespace detail

template <class Array>
class Moments {
 public:
  /// No samples yet; takes its shape from the first one.
  Moments() = default;

  /// Moments computed elsewhere, for instance of a whole batch at once: `m2` is the sum of squared
  /// deviations from `mean`. Shares tensors with the caller, who must not write to them later.
  /// Throws ValueError if `count` is negative or the shapes differ.
  [[nodiscard]] static Moments of(int64_t count, Array mean, Array m2) {
    if (count < 0) {
      throw_value_error("Moments::of: expected a count of 0 or more, got {}; count the samples",
                        count);
    }
    Moments result;
    if (count == 0) return result;
    if (!detail::same_shape(mean, m2)) {
      throw_value_error("Moments::of: expected mean and m2 of one shape, got {} and {}; pass both",
                        detail::shape_text(mean), detail::shape_text(m2));
    }
    result.count_ = count;
    result.mean_ = std::move(mean);
    result.m2_ = std::move(m2);
    return result;
  }

  /// Takes in one sample; throws ValueError if its shape differs from the earlier ones.
  void add(const Array& sample) {
    if (count_ == 0) {
      mean_ = sample * 1.0;  // never shares memory with a tensor the caller may reuse
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
    if (!detail::same_shape(mean_, sample)) {
      throw_value_error(
          "Moments::{}: expected shape {} as before, got {}; use one Moments per model", function,
          detail::shape_text(mean_), detail::shape_text(sample));
    }
  }

  int64_t count_ = 0;
  Array mean_;
  Array m2_;
};

namespace detail {

template <class Array>
concept HasRowsAndColumns = requires(const Array& a) {
  a.rows();
  a.cols();
};

template <class Array>
bool same_shape(const Array& a, const Array& b) {
  if constexpr (HasRowsAndColumns<Array>) {
    return a.rows() == b.rows() && a.cols() == b.cols();
  } else {
    return a.sizes() == b.sizes();
  }
}

template <class Array>
std::string shape_text(const Array& array) {
  if constexpr (HasRowsAndColumns<Array>) {
    return fmt::format("[{}, {}]", array.rows(), array.cols());
  } else {
    std::string text;
    for (const int64_t extent : array.sizes()) {
      text += fmt::format("{}{}", text.empty() ? "" : ", ", extent);
    }
    return "[" + text + "]";
  }
}

}  // namespace detail

}  // namespace cna
