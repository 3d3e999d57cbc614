/// A Grid holds one number per neuron of a model: rows are layers, columns are neurons of a layer.
///
/// A row stands for a block of the model, by the block's own number, and is as long as the widest
/// block's MLP; what lies behind a narrower one's neurons is 0 and stands for none.
///
/// The same type holds a batch of one layer: rows are prompts, columns are its neurons. What the
/// core asks of such an array stands in ArrayTraits, here for Eigen on the host and in
/// cna/torch/tensor_traits.hpp for tensors on a device: moments, the universal counter and top_k
/// are written once, above it.
#pragma once

#include <fmt/format.h>

#include <Eigen/Core>
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <numeric>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

namespace cna {

/// One double per neuron [layers, width], stored row by row.
using Grid = Eigen::Array<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

/// The experts of a layer: they come first in it, one behind the other; neurons that every token
/// sees stand behind them.
struct Experts {
  int64_t count = 0;  ///< 0: a dense layer
  int64_t width = 0;  ///< neurons of each

  [[nodiscard]] int64_t neurons() const { return count * width; }
  friend bool operator==(const Experts&, const Experts&) = default;
};

/// Where a neuron stands in a layer with experts.
struct ExpertPlace {
  int64_t expert = -1;  ///< -1: every token sees it
  int64_t index = 0;    ///< in its expert, or behind all experts

  friend bool operator==(const ExpertPlace&, const ExpertPlace&) = default;
};

/// The number of layers of a model and of neurons in each layer.
struct GridShape {
  int64_t layers = 0;
  int64_t width = 0;  ///< of the widest layer
  /// Of each layer where they differ, 0 for a block without an MLP; empty: all are as wide.
  std::vector<int64_t> widths = {};
  /// Of each layer of a mixture; empty: no layer has experts.
  std::vector<Experts> experts = {};

  /// The shape of layers of these widths, with their experts.
  [[nodiscard]] static GridShape of(std::vector<int64_t> widths,
                                    std::vector<Experts> experts = {}) {
    GridShape out{static_cast<int64_t>(widths.size()), 0};
    for (const int64_t w : widths) out.width = std::max(out.width, w);
    const bool even =
        std::all_of(widths.begin(), widths.end(), [&](int64_t w) { return w == out.width; });
    if (!even) out.widths = std::move(widths);
    const bool mixed =
        std::any_of(experts.begin(), experts.end(), [](const Experts& e) { return e.count > 0; });
    if (mixed) out.experts = std::move(experts);
    return out;
  }

  /// Neurons of a layer, which must be below `layers`.
  [[nodiscard]] int64_t width_of(int64_t layer) const {
    return widths.empty() ? width : widths[static_cast<std::size_t>(layer)];
  }
  /// Where a neuron of the model stands in its layer.
  [[nodiscard]] ExpertPlace expert_of(int64_t layer, int64_t index) const {
    const Experts here = experts.empty() ? Experts{} : experts[static_cast<std::size_t>(layer)];
    if (index >= here.neurons()) return {-1, index - here.neurons()};
    return {index / here.width, index % here.width};
  }
  /// All neurons of the model.
  [[nodiscard]] int64_t size() const {
    return widths.empty() ? layers * width
                          : std::accumulate(widths.begin(), widths.end(), int64_t{0});
  }
  /// Entries of a grid: layers * width, as many as neurons where all layers are as wide.
  [[nodiscard]] int64_t places() const { return layers * width; }
  /// Where a neuron stands in a flat grid.
  [[nodiscard]] int64_t place(int64_t layer, int64_t index) const { return layer * width + index; }
  /// The entries of a flat grid that stand for no neuron.
  [[nodiscard]] std::vector<int64_t> gaps() const {
    std::vector<int64_t> out;
    for (int64_t layer = 0; layer < layers; ++layer)
      for (int64_t index = width_of(layer); index < width; ++index)
        out.push_back(place(layer, index));
    return out;
  }

  [[nodiscard]] bool contains(int64_t layer, int64_t index) const {
    return layer >= 0 && layer < layers && index >= 0 && index < width_of(layer);
  }
  /// "30 x 1536", or "30 layers of up to 1536".
  [[nodiscard]] std::string text() const {
    return fmt::format(fmt::runtime(widths.empty() ? "{} x {}" : "{} layers of up to {}"), layers,
                       width);
  }

  friend bool operator==(const GridShape&, const GridShape&) = default;
};

/// What an array type must offer; arrays also know `+ - *`, division by a double, and copies.
template <class Array>
struct ArrayTraits;

/// An array type that has traits.
template <class Array>
concept GridArray = requires { typename ArrayTraits<Array>::Index; };

/// The k largest entries of each row and where they stand.
template <class Array>
struct RowTop {
  Array values;                                ///< [rows, k]
  typename ArrayTraits<Array>::Index columns;  ///< [rows, k], ascending in each row
};

template <>
struct ArrayTraits<Grid> {
  /// Whole numbers in the shape of an array: places and counts.
  using Index = Eigen::Array<int64_t, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

  [[nodiscard]] static int64_t rows(const Grid& a) { return a.rows(); }
  [[nodiscard]] static int64_t columns(const Grid& a) { return a.cols(); }
  [[nodiscard]] static bool same_shape(const Grid& a, const Grid& b) {
    return a.rows() == b.rows() && a.cols() == b.cols();
  }
  [[nodiscard]] static std::string shape_text(const Grid& a) {
    return fmt::format("[{}, {}]", a.rows(), a.cols());
  }

  /// A copy that shares no memory with its source.
  [[nodiscard]] static Grid copy(const Grid& a) { return a; }
  /// Whole numbers in one row, where `a` is: what `take_rows` needs of the host, once for many
  /// arrays.
  [[nodiscard]] static Index numbers_beside(const Grid& /*a*/,
                                            const std::vector<int64_t>& numbers) {
    return counts_from(numbers);
  }
  [[nodiscard]] static Grid take_rows(const Grid& a, const Index& which) {
    Grid out(which.size(), a.cols());
    for (Eigen::Index i = 0; i < which.size(); ++i) out.row(i) = a.row(which.data()[i]);
    return out;
  }
  /// One row per part: [parts, columns].
  [[nodiscard]] static Grid stack(const std::vector<Grid>& parts) {
    Grid out(static_cast<Eigen::Index>(parts.size()), parts.empty() ? 0 : parts[0].size());
    for (std::size_t i = 0; i < parts.size(); ++i)
      out.row(static_cast<Eigen::Index>(i)) =
          Eigen::Map<const Grid>(parts[i].data(), 1, parts[i].size());
    return out;
  }
  /// Mean over the rows and sum of squared deviations from it, in double, each [1, columns].
  [[nodiscard]] static std::pair<Grid, Grid> mean_and_m2(const Grid& a) {
    const Grid mean = a.colwise().mean();
    return {mean, (a - mean.replicate(a.rows(), 1)).square().colwise().sum()};
  }
  /// difference / sqrt(variance). Where that is 0 / 0 it is 0; where it overflows it is the largest
  /// finite double with the sign of the difference.
  [[nodiscard]] static Grid standardised(const Grid& difference, const Grid& variance) {
    Grid out = difference;
    for (Eigen::Index i = 0; i < out.size(); ++i) {
      double& d = out.data()[i];
      if (d == 0.0 || !std::isfinite(d)) continue;
      d /= std::sqrt(variance.data()[i]);
      if (std::isinf(d)) d = std::copysign(std::numeric_limits<double>::max(), d);
    }
    return out;
  }

  [[nodiscard]] static Grid magnitude(const Grid& a) { return a.abs(); }
  /// Flat place and value of the first entry that is NaN or infinite.
  [[nodiscard]] static std::optional<std::pair<int64_t, double>> first_not_finite(const Grid& a) {
    for (Eigen::Index i = 0; i < a.size(); ++i)
      if (!std::isfinite(a.data()[i])) return std::pair<int64_t, double>(i, a.data()[i]);
    return std::nullopt;
  }
  /// All entries in one row, [1, rows * columns].
  [[nodiscard]] static Grid as_row(const Grid& a) {
    return Eigen::Map<const Grid>(a.data(), 1, a.size());
  }
  /// Sets the flat `places` to `value`.
  static void fill(Grid& a, std::span<const int64_t> places, double value) {
    for (const int64_t place : places) a.data()[place] = value;
  }
  /// The entries at flat places.
  [[nodiscard]] static std::vector<double> values_at(const Grid& a,
                                                     std::span<const int64_t> places) {
    std::vector<double> out;
    for (const int64_t place : places) out.push_back(a.data()[place]);
    return out;
  }
  /// The k largest entries of each row, 1 <= k <= columns; ties go to the lower column.
  [[nodiscard]] static RowTop<Grid> top_of_rows(const Grid& a, int64_t k) {
    RowTop<Grid> out{Grid(a.rows(), k), Index(a.rows(), k)};
    std::vector<int64_t> order(static_cast<std::size_t>(a.cols()));
    for (Eigen::Index row = 0; row < a.rows(); ++row) {
      std::iota(order.begin(), order.end(), int64_t{0});
      const auto before = [&](int64_t left, int64_t right) {
        return a(row, left) != a(row, right) ? a(row, left) > a(row, right) : left < right;
      };
      std::nth_element(order.begin(), order.begin() + (k - 1), order.end(), before);
      std::sort(order.begin(), order.begin() + k);
      for (int64_t i = 0; i < k; ++i) {
        out.columns(row, i) = order[static_cast<std::size_t>(i)];
        out.values(row, i) = a(row, out.columns(row, i));
      }
    }
    return out;
  }

  /// The columns of `a`, then those of `b`; an empty `a` gives b.
  template <class Any>
  [[nodiscard]] static Any beside(const Any& a, const Any& b) {
    if (a.size() == 0) return b;
    Any out(a.rows(), a.cols() + b.cols());
    out << a, b;
    return out;
  }
  /// first, first + 1, ... in each row of an array like `a`.
  [[nodiscard]] static Index count_up(const Grid& a, int64_t first) {
    Index out(a.rows(), a.cols());
    for (Eigen::Index column = 0; column < a.cols(); ++column)
      out.col(column).setConstant(first + column);
    return out;
  }
  /// out[r, i] = from[r, columns[r, i]].
  [[nodiscard]] static Index gather(const Index& from, const Index& columns) {
    Index out(columns.rows(), columns.cols());
    for (Eigen::Index row = 0; row < out.rows(); ++row)
      for (Eigen::Index i = 0; i < out.cols(); ++i) out(row, i) = from(row, columns(row, i));
    return out;
  }
  /// Whole numbers in one row.
  [[nodiscard]] static Index counts_from(const std::vector<int64_t>& numbers) {
    return Eigen::Map<const Index>(numbers.data(), 1, static_cast<Eigen::Index>(numbers.size()));
  }
  /// Adds 1 at every place in `places`, as often as it stands there.
  static void count(Index& counts, const Index& places) {
    for (Eigen::Index i = 0; i < places.size(); ++i) counts.data()[places.data()[i]] += 1;
  }
  [[nodiscard]] static std::vector<int64_t> to_vector(const Index& index) {
    return {index.data(), index.data() + index.size()};
  }
};

}  // namespace cna
