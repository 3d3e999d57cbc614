#include "catch.hpp"
#include "cna/moments.hpp"
#include "random_grid.hpp"

using cna::Grid;
using cna::Moments;
using cna::test::message_of;
using cna::test::Random;
using cna::test::random_grid;
using cna::test::random_grids;

namespace {

Moments<Grid> moments_of(const std::vector<Grid>& samples) {
  Moments<Grid> moments;
  for (const Grid& sample : samples) moments.add(sample);
  return moments;
}

/// Two passes in long double: the reference that shares nothing with the one-pass code.
void check_against_two_passes(const Moments<Grid>& moments, const std::vector<Grid>& samples,
                              double tolerance) {
  const auto n = static_cast<long double>(samples.size());
  REQUIRE(moments.count() == static_cast<int64_t>(samples.size()));
  double worst = 0.0;
  for (Eigen::Index i = 0; i < samples[0].size(); ++i) {
    long double sum = 0.0L;
    for (const Grid& sample : samples) sum += sample.data()[i];
    const long double mean = sum / n;
    long double squares = 0.0L;
    for (const Grid& sample : samples) {
      squares += (sample.data()[i] - mean) * (sample.data()[i] - mean);
    }
    worst = std::max(worst, std::abs(static_cast<double>(moments.mean().data()[i] - mean)));
    worst = std::max(worst, std::abs(static_cast<double>(moments.m2().data()[i] - squares)));
    if (samples.size() > 1) {
      const auto variance = static_cast<double>(squares / (n - 1.0L));
      worst = std::max(worst, std::abs(moments.variance().data()[i] - variance));
    }
  }
  CHECK(worst <= tolerance);
}

}  // namespace

TEST_CASE("Moments: one pass gives the mean and variance of two passes", "[core][moments]") {
  Random random(1);
  for (const int count : {1, 2, 3, 17, 200}) {
    const auto samples = random_grids(random, count, 3, 7);
    check_against_two_passes(moments_of(samples), samples, 1e-12);
  }
}

TEST_CASE("Moments: a large common offset does not spoil the variance", "[core][moments]") {
  Random random(2);
  auto samples = random_grids(random, 100, 2, 5);
  for (Grid& sample : samples) sample += 1e6;
  check_against_two_passes(moments_of(samples), samples, 1e-7);
}

TEST_CASE("Moments: merging parts equals adding everything, however it is cut", "[core][moments]") {
  Random random(3);
  const auto samples = random_grids(random, 40, 4, 6);
  for (const int cut : {0, 1, 13, 39, 40}) {
    Moments<Grid> left = moments_of({samples.begin(), samples.begin() + cut});
    const Moments<Grid> right = moments_of({samples.begin() + cut, samples.end()});
    left.merge(right);
    check_against_two_passes(left, samples, 1e-12);
  }
}

TEST_CASE("Moments: merging with empty ones changes no bit", "[core][moments]") {
  Random random(4);
  const Moments<Grid> full = moments_of(random_grids(random, 5, 2, 3));
  Moments<Grid> left;
  left.merge(full);
  Moments<Grid> right = full;
  right.merge(Moments<Grid>());
  for (const Moments<Grid>& merged : {left, right}) {
    CHECK(merged.count() == 5);
    CHECK((merged.mean() == full.mean()).all());
    CHECK((merged.m2() == full.m2()).all());
  }
  Moments<Grid> nothing;
  nothing.merge(Moments<Grid>());
  CHECK(nothing.count() == 0);
  CHECK(nothing.mean().size() == 0);
}

TEST_CASE("Moments: merging with itself counts every sample twice", "[core][moments]") {
  Random random(5);
  auto samples = random_grids(random, 6, 2, 3);
  Moments<Grid> moments = moments_of(samples);
  moments.merge(moments);
  for (std::size_t i = 0; i < 6; ++i) samples.push_back(Grid(samples[i]));
  check_against_two_passes(moments, samples, 1e-12);
}

TEST_CASE("Moments: its own mean may be added", "[core][moments]") {
  Random random(6);
  auto samples = random_grids(random, 4, 2, 3);
  Moments<Grid> moments = moments_of(samples);
  samples.push_back(moments.mean());
  moments.add(moments.mean());
  check_against_two_passes(moments, samples, 1e-12);
}

TEST_CASE("Moments: parts computed elsewhere can be merged in", "[core][moments]") {
  Random random(7);
  const auto samples = random_grids(random, 9, 2, 3);
  const Moments<Grid> whole = moments_of(samples);
  Moments<Grid> built = Moments<Grid>::of(whole.count(), whole.mean(), whole.m2());
  CHECK((built.variance() == whole.variance()).all());
  CHECK(Moments<Grid>::of(0, Grid(), Grid()).count() == 0);
}

TEST_CASE("Moments: errors say what came and what to do", "[core][moments]") {
  Moments<Grid> moments;
  CHECK(message_of<cna::ValueError>([&] { (void)moments.variance(); }) ==
        "Moments::variance: expected 2 samples or more, got 0; add more samples");
  moments.add(Grid::Zero(2, 3));
  CHECK(message_of<cna::ValueError>([&] { (void)moments.variance(); }) ==
        "Moments::variance: expected 2 samples or more, got 1; add more samples");
  CHECK(message_of<cna::ValueError>([&] { moments.add(Grid::Zero(3, 2)); }) ==
        "Moments::add: expected shape [2, 3] as before, got [3, 2]; use one Moments per model");
  Moments<Grid> other;
  other.add(Grid::Zero(2, 4));
  CHECK(message_of<cna::ValueError>([&] { moments.merge(other); }) ==
        "Moments::merge: expected shape [2, 3] as before, got [2, 4]; use one Moments per model");
  CHECK(message_of<cna::ValueError>([] {
          (void)Moments<Grid>::of(-1, Grid::Zero(1, 1), Grid::Zero(1, 1));
        }) == "Moments::of: expected a count of 0 or more, got -1; count the samples");
  CHECK(message_of<cna::ValueError>([] {
          (void)Moments<Grid>::of(1, Grid::Zero(1, 2), Grid::Zero(1, 3));
        }) == "Moments::of: expected mean and m2 of one shape, got [1, 2] and [1, 3]; pass both");
  CHECK(moments.count() == 1);
}
