#include "catch.hpp"
#include "cna/attribution.hpp"
#include "random_grid.hpp"

using cna::Grid;
using cna::Moments;
using cna::Neuron;
using cna::test::contains;
using cna::test::message_of;
using cna::test::Random;
using cna::test::random_grid;
using cna::test::random_grids;

namespace {

constexpr double nan_value = std::numeric_limits<double>::quiet_NaN();
constexpr double infinity = std::numeric_limits<double>::infinity();

Moments<Grid> moments_of(const std::vector<Grid>& samples) {
  Moments<Grid> moments;
  for (const Grid& sample : samples) moments.add(sample);
  return moments;
}

/// Picks the best neuron left, k times: slow and obvious.
std::vector<Neuron> pick_one_by_one(const Grid& score, const Grid& delta, int64_t k,
                                    const cna::NeuronSet& excluded) {
  std::vector<Neuron> picked;
  cna::NeuronSet gone = excluded;
  while (static_cast<int64_t>(picked.size()) < k) {
    Neuron best{-1, -1, 0.0};
    for (int32_t layer = 0; layer < score.rows(); ++layer) {
      for (int32_t index = 0; index < score.cols(); ++index) {
        if (gone.contains({layer, index})) continue;
        if (best.layer < 0 ||
            std::abs(score(layer, index)) > std::abs(score(best.layer, best.index))) {
          best = {layer, index, delta(layer, index)};
        }
      }
    }
    picked.push_back(best);
    gone.insert(best.id());
  }
  return picked;
}

}  // namespace

TEST_CASE("mean_difference: equals the difference of two plain averages", "[core][attribution]") {
  Random random(1);
  const auto positive = random_grids(random, 11, 3, 5);
  const auto negative = random_grids(random, 6, 3, 5);
  Grid expected = Grid::Zero(3, 5);
  for (const Grid& sample : positive) expected += sample / 11.0;
  for (const Grid& sample : negative) expected -= sample / 6.0;
  const Grid delta = cna::mean_difference(moments_of(positive), moments_of(negative));
  CHECK((delta - expected).abs().maxCoeff() < 1e-14);
}

TEST_CASE("mean_difference: swapping the sets flips the sign", "[core][attribution]") {
  Random random(2);
  const auto a = moments_of(random_grids(random, 8, 2, 9));
  const auto b = moments_of(random_grids(random, 8, 2, 9));
  CHECK((cna::mean_difference(a, b) == -cna::mean_difference(b, a)).all());
}

TEST_CASE("mean_difference: a set against itself is exactly zero", "[core][attribution]") {
  Random random(3);
  const auto a = moments_of(random_grids(random, 8, 2, 9));
  CHECK((cna::mean_difference(a, a) == 0.0).all());
}

TEST_CASE("effect_size: equals the textbook formula for Cohen's d", "[core][attribution]") {
  Random random(4);
  const auto positive = random_grids(random, 9, 2, 6);
  const auto negative = random_grids(random, 5, 2, 6);
  const Grid d = cna::effect_size(moments_of(positive), moments_of(negative));
  for (Eigen::Index i = 0; i < d.size(); ++i) {
    const auto average = [i](const std::vector<Grid>& samples) {
      double sum = 0.0;
      for (const Grid& sample : samples) sum += sample.data()[i];
      return sum / static_cast<double>(samples.size());
    };
    const auto squares = [i, average](const std::vector<Grid>& samples) {
      double sum = 0.0;
      for (const Grid& sample : samples) sum += std::pow(sample.data()[i] - average(samples), 2);
      return sum;
    };
    const double sd = std::sqrt((squares(positive) + squares(negative)) / (9 + 5 - 2));
    CHECK(d.data()[i] ==
          cna::test::Approx((average(positive) - average(negative)) / sd).epsilon(1e-12));
  }
}

TEST_CASE("effect_size: scaling the activations does not change it", "[core][attribution]") {
  Random random(5);
  auto positive = random_grids(random, 9, 2, 6);
  auto negative = random_grids(random, 5, 2, 6);
  const Grid before = cna::effect_size(moments_of(positive), moments_of(negative));
  for (Grid& sample : positive) sample *= 8.0;
  for (Grid& sample : negative) sample *= 8.0;
  const Grid after = cna::effect_size(moments_of(positive), moments_of(negative));
  CHECK((before - after).abs().maxCoeff() < 1e-12);
}

TEST_CASE("effect_size: without spread it is 0 or the largest double, never infinite",
          "[core][attribution]") {
  const Grid high = (Grid(1, 3) << 1.0, 2.0, -3.0).finished();
  const Grid low = (Grid(1, 3) << 1.0, 1.0, 3.0).finished();
  const Grid d = cna::effect_size(moments_of({high, high}), moments_of({low, low}));
  CHECK(d(0, 0) == 0.0);
  CHECK(d(0, 1) == std::numeric_limits<double>::max());
  CHECK(d(0, 2) == -std::numeric_limits<double>::max());
}

TEST_CASE("mean_difference and effect_size: errors name the counts and the shapes",
          "[core][attribution]") {
  const Moments<Grid> none;
  const auto one = moments_of({Grid::Zero(2, 3)});
  const auto other = moments_of({Grid::Zero(2, 4)});
  CHECK(message_of<cna::ValueError>([&] { (void)cna::mean_difference(none, one); }) ==
        "mean_difference: expected 1 or more samples per set, got 0 positive and 1 negative; add "
        "prompts");
  CHECK(message_of<cna::ValueError>([&] { (void)cna::effect_size(one, one); }) ==
        "effect_size: expected 2 or more samples per set, got 1 positive and 1 negative; add "
        "prompts");
  CHECK(message_of<cna::ValueError>([&] { (void)cna::mean_difference(one, other); }) ==
        "mean_difference: expected both sets from one model, got shapes [2, 3] and [2, 4]; record "
        "again");
}

TEST_CASE("circuit_size: rounds, and is never below one", "[core][attribution]") {
  CHECK(cna::circuit_size({30, 1536}, 0.001) == 46);
  CHECK(cna::circuit_size({16, 8192}, 0.001) == 131);
  CHECK(cna::circuit_size({28, 8960}, 0.001) == 251);
  CHECK(cna::circuit_size({1, 10}, 0.001) == 1);
  CHECK(cna::circuit_size({2, 5}, 1.0) == 10);
  CHECK(cna::circuit_size({1, 5}, 0.5) == 2);  // 2.5, halves go to the even neighbour
  CHECK(cna::circuit_size({1, 7}, 0.5) == 4);  // 3.5
}

TEST_CASE("circuit_size: a fraction outside (0, 1] is an error", "[core][attribution]") {
  for (const double fraction : {0.0, -0.1, 1.0001, nan_value, infinity}) {
    const auto message =
        message_of<cna::ValueError>([&] { (void)cna::circuit_size({2, 3}, fraction); });
    CHECK(contains(message, "expected a fraction above 0 and up to 1"));
  }
  CHECK(contains(message_of<cna::ValueError>([] { (void)cna::circuit_size({0, 3}, 0.1); }),
                 "got a grid of 0 x 3"));
}

TEST_CASE("top_k: equals picking the best neuron k times", "[core][attribution]") {
  Random random(6);
  for (int trial = 0; trial < 60; ++trial) {
    const auto layers = static_cast<int64_t>(1 + random() % 5);
    const auto width = static_cast<int64_t>(1 + random() % 9);
    Grid score = random_grid(random, layers, width);
    if (trial % 2 == 0) score = (score * 2.0).round();  // many ties
    const Grid delta = random_grid(random, layers, width);
    cna::NeuronSet excluded;
    for (int i = 0; i < trial % 4; ++i) {
      excluded.insert({static_cast<int32_t>(random() % static_cast<uint64_t>(layers)),
                       static_cast<int32_t>(random() % static_cast<uint64_t>(width))});
    }
    const int64_t available = layers * width - static_cast<int64_t>(excluded.size());
    if (available < 1) continue;
    for (const int64_t k : {int64_t{1}, (available + 1) / 2, available}) {
      CHECK(cna::top_k(score, delta, k, &excluded) == pick_one_by_one(score, delta, k, excluded));
      CHECK(cna::top_k(score, k) == pick_one_by_one(score, score, k, {}));
    }
  }
}

TEST_CASE("top_k: takes from all layers together and keeps the sign", "[core][attribution]") {
  const Grid delta = (Grid(2, 3) << 0.1, -0.2, 0.3, 9.0, -8.0, 7.0).finished();
  CHECK(cna::top_k(delta, 3) == std::vector<Neuron>{{1, 0, 9.0}, {1, 1, -8.0}, {1, 2, 7.0}});
}

TEST_CASE("top_k: excluded neurons are replaced, so the size stays", "[core][attribution]") {
  const Grid delta = (Grid(1, 4) << 4.0, 3.0, 2.0, 1.0).finished();
  const cna::NeuronSet excluded{{0, 0}, {0, 2}};
  CHECK(cna::top_k(delta, 2, &excluded) == std::vector<Neuron>{{0, 1, 3.0}, {0, 3, 1.0}});
}

TEST_CASE("top_k: a part of a larger grid can be scored", "[core][attribution]") {
  Random random(7);
  const Grid whole = random_grid(random, 6, 8);
  const Grid part = whole.block(2, 1, 3, 4);
  CHECK(cna::top_k(whole.block(2, 1, 3, 4), 5) == cna::top_k(part, 5));
}

TEST_CASE("top_k: a score that is no number is an error that names the neuron",
          "[core][attribution]") {
  for (const double bad : {nan_value, infinity, -infinity}) {
    Grid score = Grid::Ones(3, 4);
    score(2, 1) = bad;
    CHECK(message_of<cna::ValueError>([&] { (void)cna::top_k(score, 1); }) ==
          fmt::format("top_k: expected finite scores, got {} at layer 2, neuron 1; check the "
                      "activations for overflow, or use a wider dtype",
                      bad));
  }
}

TEST_CASE("top_k: errors for k, shapes and excluded neurons", "[core][attribution]") {
  const Grid score = Grid::Ones(2, 2);
  const cna::NeuronSet two{{0, 0}, {1, 1}};
  for (const int64_t k : {int64_t{0}, int64_t{-3}, int64_t{5}}) {
    CHECK(message_of<cna::ValueError>([&] { (void)cna::top_k(score, k); }) ==
          fmt::format("top_k: expected k between 1 and the 4 neurons available, got {}; choose "
                      "another k or exclude fewer neurons",
                      k));
  }
  CHECK(contains(message_of<cna::ValueError>([&] { (void)cna::top_k(score, 3, &two); }),
                 "the 2 neurons available, got 3"));
  CHECK(contains(message_of<cna::ValueError>([&] { (void)cna::top_k(score, Grid::Ones(2, 3), 1); }),
                 "got [2, 2] and [2, 3]"));
  const cna::NeuronSet outside{{2, 0}};
  CHECK(message_of<cna::IndexError>([&] { (void)cna::top_k(score, 1, &outside); }) ==
        "top_k: expected excluded neurons inside the 2 x 2 grid, got (2, 0); use a set found on "
        "this model");
}
