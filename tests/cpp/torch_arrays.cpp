// The templated core on tensors: the same numbers as on Eigen arrays, and as a plain reference.
#include <ATen/ATen.h>

#include <algorithm>
#include <numeric>

#include "catch.hpp"
#include "cna/attribution.hpp"
#include "cna/torch/accumulator.hpp"
#include "cna/universal.hpp"

using namespace cna;

using cna::test::contains;
using cna::test::message_of;

namespace {

bool near(const at::Tensor& t, const Grid& g, double tolerance = 1e-13) {
  const Grid other = to_grid(t.dim() == 1 ? t.unsqueeze(0) : t);
  return other.rows() == g.rows() && other.cols() == g.cols() &&
         (other - g).abs().maxCoeff() <= tolerance;
}

/// Values with many ties.
at::Tensor coarse(at::IntArrayRef shape) { return (at::randn(shape, at::kDouble) * 2).round(); }

/// The k best columns of a row, picked one after the other: largest first, then leftmost.
std::vector<int64_t> picked(const at::Tensor& row, int64_t k) {
  std::vector<int64_t> order(static_cast<size_t>(row.numel()));
  std::iota(order.begin(), order.end(), int64_t{0});
  std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) {
    return row[a].item<double>() > row[b].item<double>();
  });
  order.resize(static_cast<size_t>(k));
  std::sort(order.begin(), order.end());
  return order;
}

}  // namespace

TEST_CASE("Moments: tensors and Eigen arrays give the same from one source") {
  at::manual_seed(1);
  const at::Tensor samples = at::randn({7, 3, 4}, at::kDouble);
  Moments<at::Tensor> tensor;
  Moments<Grid> grid;
  for (int64_t i = 0; i < samples.size(0); ++i) {
    tensor.add(samples[i]);
    grid.add(to_grid(samples[i]));
  }
  CHECK(near(tensor.mean(), grid.mean(), 1e-14));
  CHECK(near(tensor.m2(), grid.m2(), 1e-14));
  CHECK(near(samples.mean(0), grid.mean(), 1e-14));
  CHECK(near(samples.var(0), grid.variance(), 1e-14));
}

TEST_CASE("Moments: batches of rows merge as their samples do, on both kinds of arrays") {
  at::manual_seed(2);
  const at::Tensor samples = at::randn({9, 5}, at::kDouble);
  Moments<at::Tensor> tensor;
  Moments<Grid> grid;
  for (const auto& part : samples.split(4)) {
    tensor.merge(Moments<at::Tensor>::of_rows(part));
    grid.merge(Moments<Grid>::of_rows(to_grid(part)));
  }
  CHECK(tensor.count() == 9);
  CHECK(near(samples.mean(0), grid.mean()));
  CHECK(near(samples.var(0) * 8, grid.m2()));
  CHECK(near(tensor.mean(), grid.mean()));
  CHECK(near(tensor.m2(), grid.m2()));
}

TEST_CASE("GroupedMoments: every set has the moments of its own prompts, layer by layer") {
  at::manual_seed(3);
  const at::Tensor acts = at::randn({7, 2, 4}, at::kFloat);  // [prompts, layers, features]
  const std::vector<int> groups{0, 1, 0, 0, 1, -1, 1};
  GroupedMoments<at::Tensor> tensor(groups);
  GroupedMoments<Grid> grid(groups);
  for (const std::vector<int64_t>& batch : {std::vector<int64_t>{6, 0, 5}, {1, 2, 3, 4}}) {
    const at::Tensor rows = acts.index_select(0, at::tensor(batch, at::kLong));
    for (int64_t layer = 0; layer < 2; ++layer) {
      tensor.add(layer, batch, rows.select(1, layer));
      grid.add(layer, batch, to_grid(rows.select(1, layer)));
    }
    tensor.end_batch();
    grid.end_batch();
  }
  for (const int group : {0, 1}) {
    std::vector<int64_t> mine;
    for (size_t i = 0; i < groups.size(); ++i)
      if (groups[i] == group) mine.push_back(static_cast<int64_t>(i));
    const at::Tensor a = acts.index_select(0, at::tensor(mine, at::kLong)).to(at::kDouble);
    CHECK(tensor.together(group).count() == static_cast<int64_t>(mine.size()));
    CHECK(at::allclose(tensor.together(group).mean(), a.mean(0), 0, 1e-13));
    CHECK(at::allclose(tensor.together(group).m2(), (a - a.mean(0)).square().sum(0), 0, 1e-13));
    CHECK(near(tensor.together(group).mean(), grid.together(group).mean()));
    CHECK(near(tensor.together(group).m2(), grid.together(group).m2()));
  }
}

TEST_CASE("top_of_rows: ties go to the left, on both kinds of arrays") {
  at::manual_seed(4);
  for (const int64_t k : {1, 3, 8, 11}) {
    const at::Tensor a = coarse({6, 11});
    const auto tensor = ArrayTraits<at::Tensor>::top_of_rows(a, k);
    const auto grid = ArrayTraits<Grid>::top_of_rows(to_grid(a), k);
    for (int64_t row = 0; row < 6; ++row) {
      const std::vector<int64_t> wanted = picked(a[row], k);
      for (int64_t i = 0; i < k; ++i) {
        CHECK(tensor.columns[row][i].item<int64_t>() == wanted[static_cast<size_t>(i)]);
        CHECK(grid.columns(row, i) == wanted[static_cast<size_t>(i)]);
        CHECK(tensor.values[row][i].item<double>() == grid.values(row, i));
      }
    }
  }
}

TEST_CASE("top_k: a tensor gives the neurons of a grid, in their order") {
  at::manual_seed(5);
  const NeuronSet excluded{{0, 1}, {2, 3}, {3, 0}};
  for (int round = 0; round < 20; ++round) {
    const at::Tensor score = coarse({4, 6}), delta = at::randn({4, 6}, at::kDouble);
    for (const int64_t k : {1, 5, 21}) {
      const bool same =
          top_k(score, delta, k, &excluded) == top_k(to_grid(score), to_grid(delta), k, &excluded);
      CHECK(same);
    }
  }
  at::Tensor bad = at::zeros({2, 3}, at::kDouble);
  bad[1][2] = std::nan("");
  CHECK(contains(message_of<ValueError>([&] { (void)top_k(bad, 1); }), "layer 1, neuron 2"));
}

TEST_CASE("effect_size: a tensor gives the numbers of a grid, also where nothing varies") {
  at::manual_seed(6);
  const auto both = [](const at::Tensor& a, const at::Tensor& b) {
    Moments<at::Tensor> left, right;
    Moments<Grid> host_left, host_right;
    for (int64_t i = 0; i < a.size(0); ++i) {
      left.add(a[i]), right.add(b[i]);
      host_left.add(to_grid(a[i])), host_right.add(to_grid(b[i]));
    }
    return std::pair(effect_size(left, right), effect_size(host_left, host_right));
  };
  at::Tensor a = at::randn({5, 2, 3}, at::kDouble), b = at::randn({5, 2, 3}, at::kDouble);
  a.select(1, 0).select(1, 0).fill_(2.0), b.select(1, 0).select(1, 0).fill_(1.0);  // 1 / 0
  a.select(1, 1).select(1, 2).fill_(3.0), b.select(1, 1).select(1, 2).fill_(3.0);  // 0 / 0
  const auto [tensor, grid] = both(a, b);
  CHECK(grid(0, 0) == std::numeric_limits<double>::max());
  CHECK(grid(1, 2) == 0.0);
  CHECK(tensor[0][0].item<double>() == grid(0, 0));
  CHECK(tensor[1][2].item<double>() == 0.0);
  CHECK(tensor[1][0].item<double>() == Approx(grid(1, 0)).epsilon(1e-13));
}

TEST_CASE("UniversalCounter: layer by layer on tensors counts what whole prompts count") {
  at::manual_seed(7);
  const GridShape shape{5, 9};
  for (const double fraction : {0.02, 0.2, 0.7, 1.0}) {
    const at::Tensor acts = coarse({12, 5, 9}).to(at::kFloat);
    BasicUniversalCounter<at::Tensor> device(shape, fraction);
    UniversalCounter host(shape, fraction);
    for (const auto& part : acts.split(5)) {
      for (int64_t layer = 0; layer < 5; ++layer) device.add(layer, {}, part.select(1, layer));
      device.end_batch();
    }
    at::Tensor counts = at::zeros({45}, at::kLong);
    for (int64_t i = 0; i < 12; ++i) {
      const at::Tensor prompt = acts[i].contiguous();
      host.add(std::span<const float>(prompt.data_ptr<float>(), 45));
      for (const int64_t place : picked(prompt.abs().flatten(), host.top())) counts[place] += 1;
    }
    CHECK(device.prompts() == 12);
    CHECK(device.hits() == host.hits());
    CHECK(device.hits() == ArrayTraits<at::Tensor>::to_vector(counts));
    CHECK((device.universal(0.5) == host.universal(0.5)));
    CHECK(UniversalCounter(device).hits() == host.hits());
  }
}
