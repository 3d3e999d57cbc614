/// What the core asks of a tensor: ArrayTraits, with every operation on the tensor's own device.
///
/// Only `first_not_finite`, `values_at` and `to_vector` bring numbers to the host.
#pragma once

#include <ATen/ATen.h>

#include <limits>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "cna/grid.hpp"

namespace cna {

template <>
struct ArrayTraits<at::Tensor> {
  using Index = at::Tensor;  ///< int64

  [[nodiscard]] static int64_t rows(const at::Tensor& a) { return extent(a, 0); }
  [[nodiscard]] static int64_t columns(const at::Tensor& a) { return extent(a, 1); }
  [[nodiscard]] static bool same_shape(const at::Tensor& a, const at::Tensor& b) {
    return a.sizes() == b.sizes();
  }
  [[nodiscard]] static std::string shape_text(const at::Tensor& a) {
    std::string text;
    for (const int64_t size : a.sizes())
      text += fmt::format("{}{}", text.empty() ? "" : ", ", size);
    return "[" + text + "]";
  }

  [[nodiscard]] static at::Tensor copy(const at::Tensor& a) { return a * 1.0; }
  [[nodiscard]] static at::Tensor numbers_beside(const at::Tensor& a,
                                                 const std::vector<int64_t>& numbers) {
    return index_on(a, numbers);
  }
  [[nodiscard]] static at::Tensor take_rows(const at::Tensor& a, const at::Tensor& which) {
    return a.index_select(0, which);
  }
  [[nodiscard]] static at::Tensor stack(const std::vector<at::Tensor>& parts) {
    return at::stack(parts);
  }
  /// In float64: low-precision sums lose neurons.
  [[nodiscard]] static std::pair<at::Tensor, at::Tensor> mean_and_m2(const at::Tensor& a) {
    const at::Tensor wide = a.to(at::kDouble);
    const at::Tensor mean = wide.mean(0);
    return {mean, (wide - mean).square().sum(0)};
  }
  [[nodiscard]] static at::Tensor standardised(const at::Tensor& difference,
                                               const at::Tensor& variance) {
    const at::Tensor ratio = difference / variance.sqrt();
    constexpr double most = std::numeric_limits<double>::max();
    const at::Tensor kept = difference.eq(0.0).logical_or(difference.isfinite().logical_not());
    return at::where(kept, difference, ratio.clamp(-most, most));
  }

  [[nodiscard]] static at::Tensor magnitude(const at::Tensor& a) { return a.abs(); }
  [[nodiscard]] static std::optional<std::pair<int64_t, double>> first_not_finite(
      const at::Tensor& a) {
    const at::Tensor finite = a.isfinite();
    if (finite.all().item<bool>()) return std::nullopt;
    const int64_t place = finite.logical_not().flatten().nonzero()[0][0].item<int64_t>();
    return std::pair(place, a.flatten()[place].to(at::kDouble).item<double>());
  }
  [[nodiscard]] static at::Tensor as_row(const at::Tensor& a) { return a.reshape({1, -1}); }
  static void fill(at::Tensor& a, std::span<const int64_t> places, double value) {
    if (!places.empty()) a = a.flatten().index_fill(0, index_on(a, places), value).view(a.sizes());
  }
  [[nodiscard]] static std::vector<double> values_at(const at::Tensor& a,
                                                     std::span<const int64_t> places) {
    const at::Tensor v = a.flatten().index_select(0, index_on(a, places)).to(at::kCPU, at::kDouble);
    return {v.data_ptr<double>(), v.data_ptr<double>() + v.numel()};
  }
  /// at::topk promises no order among ties: the k-th largest value decides who is in, and ties at
  /// it are counted off from the left.
  [[nodiscard]] static RowTop<at::Tensor> top_of_rows(const at::Tensor& a, int64_t k) {
    const int64_t n = a.size(1);
    const at::Tensor least = std::get<0>(at::topk(a, k, 1)).narrow(1, k - 1, 1);
    const at::Tensor above = a.gt(least), level = a.eq(least);
    const at::Tensor open = above.sum(1, true).neg().add(k);
    const at::Tensor taken = above.logical_or(level.logical_and(level.cumsum(1).le(open)));
    // Distinct keys, larger to the left: their top k in order are the columns in order.
    const at::Tensor keys = at::arange(n, 0, -1, a.options().dtype(at::kLong));
    const at::Tensor columns = std::get<0>(at::topk(keys * taken, k, 1)).neg().add(n);
    return {a.gather(1, columns), columns};
  }

  [[nodiscard]] static at::Tensor beside(const at::Tensor& a, const at::Tensor& b) {
    return a.defined() ? at::cat({a, b}, 1) : b;
  }
  [[nodiscard]] static at::Tensor count_up(const at::Tensor& a, int64_t first) {
    return at::arange(first, first + a.size(1), a.options().dtype(at::kLong)).expand(a.sizes());
  }
  [[nodiscard]] static at::Tensor gather(const at::Tensor& from, const at::Tensor& columns) {
    return from.gather(1, columns);
  }
  /// On the host; `count` takes them to the device of the first places.
  [[nodiscard]] static at::Tensor counts_from(const std::vector<int64_t>& numbers) {
    return at::tensor(numbers, at::kLong).unsqueeze(0);
  }
  static void count(at::Tensor& counts, const at::Tensor& places) {
    if (!places.defined()) return;
    const at::Tensor flat = places.reshape(-1);
    counts = counts.to(flat.device()).index_add(1, flat, at::ones_like(flat).unsqueeze(0));
  }
  [[nodiscard]] static std::vector<int64_t> to_vector(const at::Tensor& index) {
    const at::Tensor i = index.to(at::kCPU, at::kLong).contiguous();
    return {i.data_ptr<int64_t>(), i.data_ptr<int64_t>() + i.numel()};
  }

 private:
  [[nodiscard]] static int64_t extent(const at::Tensor& a, int64_t dim) {
    return a.defined() ? a.size(dim) : 0;
  }
  [[nodiscard]] static at::Tensor index_on(const at::Tensor& a, std::span<const int64_t> numbers) {
    return at::tensor(at::ArrayRef<int64_t>(numbers.data(), numbers.size()), at::kLong)
        .to(a.device());
  }
};

/// A tensor [rows, columns] as a Grid on the host.
[[nodiscard]] inline Grid to_grid(const at::Tensor& tensor) {
  if (!tensor.defined()) return {};
  const at::Tensor t = tensor.to(at::kCPU, at::kDouble).contiguous();
  return Eigen::Map<const Grid>(t.data_ptr<double>(), t.size(0), t.size(1));
}

}  // namespace cna
