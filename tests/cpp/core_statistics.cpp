#include <vector>

#include "catch.hpp"
#include "cna/statistics.hpp"

using cna::test::Approx;
using cna::test::contains;
using cna::test::message_of;

namespace {

/// Pascal's triangle in long double, exact for the sizes used here.
long double choose(int n, int k) {
  if (k < 0 || k > n) return 0.0L;
  std::vector<long double> row{1.0L};
  for (int i = 1; i <= n; ++i) {
    row.push_back(0.0L);
    for (std::size_t j = row.size() - 1; j > 0; --j) row[j] += row[j - 1];
  }
  return row[static_cast<std::size_t>(k)];
}

}  // namespace

TEST_CASE("inverse_normal_cdf: known quantiles, odd around one half", "[core][statistics]") {
  CHECK(cna::inverse_normal_cdf(0.5) == Approx(0.0).margin(1e-15));
  CHECK(cna::inverse_normal_cdf(0.975) == Approx(1.959963984540054).epsilon(1e-14));
  CHECK(cna::inverse_normal_cdf(0.995) == Approx(2.575829303548901).epsilon(1e-14));
  CHECK(cna::inverse_normal_cdf(1e-10) == Approx(-6.361340902404056).epsilon(1e-13));
  for (double p = 0.01; p < 0.5; p += 0.01) {
    const double x = cna::inverse_normal_cdf(p);
    CHECK(0.5 * std::erfc(-x / std::numbers::sqrt2) == Approx(p).epsilon(1e-13));
    CHECK(cna::inverse_normal_cdf(1.0 - p) == Approx(-x).epsilon(1e-12));
  }
  CHECK(contains(message_of<cna::ValueError>([] { (void)cna::inverse_normal_cdf(1.0); }),
                 "expected p between 0 and 1, got 1;"));
}

TEST_CASE("wilson_interval: its ends solve the equation that defines it", "[core][statistics]") {
  for (const int n : {1, 7, 100}) {
    for (int x = 0; x <= n; x += std::max(1, n / 7)) {
      const cna::Interval interval = cna::wilson_interval(x, n);
      const double rate = static_cast<double>(x) / n;
      CHECK(interval.low <= rate);
      CHECK(interval.high >= rate);
      for (const double p : {interval.low, interval.high}) {
        if (p == 0.0 || p == 1.0) continue;
        CHECK(std::abs(rate - p) ==
              Approx(1.959963984540054 * std::sqrt(p * (1 - p) / n)).epsilon(1e-9));
      }
    }
  }
  CHECK(cna::wilson_interval(0, 10).low == 0.0);
  CHECK(cna::wilson_interval(10, 10).high == 1.0);
}

TEST_CASE("wilson_interval: a known case and its mirror image", "[core][statistics]") {
  const auto some = cna::wilson_interval(5, 50);
  CHECK(some.low == Approx(0.04347).margin(5e-5));
  CHECK(some.high == Approx(0.21360).margin(5e-5));
  const auto mirror = cna::wilson_interval(45, 50);
  CHECK(mirror.low == Approx(1.0 - some.high).epsilon(1e-12));
  CHECK(mirror.high == Approx(1.0 - some.low).epsilon(1e-12));
  CHECK(cna::wilson_interval(5, 50, 0.99).high > some.high);
}

TEST_CASE("wilson_interval: impossible counts and confidences are errors", "[core][statistics]") {
  CHECK(message_of<cna::ValueError>([] { (void)cna::wilson_interval(0, 0); }) ==
        "wilson_interval: expected 0 <= successes <= n and n >= 1, got 0 of 0; count at least one "
        "trial");
  CHECK(contains(message_of<cna::ValueError>([] { (void)cna::wilson_interval(3, 2); }), "3 of 2"));
  CHECK(contains(message_of<cna::ValueError>([] { (void)cna::wilson_interval(1, 2, 1.0); }),
                 "expected a confidence between 0 and 1, got 1"));
}

TEST_CASE("jaccard: shared over either", "[core][statistics]") {
  CHECK(cna::jaccard(3, 4, 2) == Approx(0.4));
  CHECK(cna::jaccard(3, 3, 3) == 1.0);
  CHECK(cna::jaccard(3, 3, 0) == 0.0);
  CHECK(cna::jaccard(0, 0, 0) == 1.0);
  CHECK(contains(message_of<cna::ValueError>([] { (void)cna::jaccard(1, 5, 2); }),
                 "got 2 shared of 1 and 5"));
}

TEST_CASE("log_choose: equals Pascal's triangle", "[core][statistics]") {
  for (int n = 0; n <= 60; n += 5) {
    for (int k = 0; k <= n; ++k) {
      const double expected = static_cast<double>(std::log(choose(n, k)));
      CHECK(cna::log_choose(n, k) == Approx(expected).margin(1e-12));
    }
  }
  CHECK(contains(message_of<cna::ValueError>([] { (void)cna::log_choose(3, 4); }), "k = 4, n = 3"));
}

TEST_CASE("hypergeometric_upper_tail: equals the sum of its definition", "[core][statistics]") {
  double worst = 0.0;
  for (const int population : {1, 6, 20, 40}) {
    for (int marked = 0; marked <= population; marked += 3) {
      for (int draws = 0; draws <= population; draws += 2) {
        for (int observed = -1; observed <= draws + 1; ++observed) {
          long double sum = 0.0L;
          for (int x = std::max(0, observed); x <= draws; ++x) {
            sum += choose(marked, x) * choose(population - marked, draws - x);
          }
          const auto expected = static_cast<double>(sum / choose(population, draws));
          const double got = cna::hypergeometric_upper_tail(population, marked, draws, observed);
          worst = std::max(worst, std::abs(got - expected) / std::max(expected, 1e-300));
        }
      }
    }
  }
  CHECK(worst < 1e-12);
}

TEST_CASE("hypergeometric_upper_tail: stays right where single terms underflow",
          "[core][statistics]") {
  // Half of 100,000 is marked and half is drawn: about 25,000 are expected, so the first term of
  // the tail from 20,000 is far below the smallest double while the tail is almost one.
  CHECK(cna::hypergeometric_upper_tail(100000, 50000, 50000, 20000) == Approx(1.0).epsilon(1e-9));
  // All 200 of 200 in 131,072: exactly one over "131,072 choose 200".
  CHECK(cna::log_hypergeometric_upper_tail(131072, 200, 200, 200) ==
        Approx(-cna::log_choose(131072, 200)).epsilon(1e-12));
  CHECK(cna::hypergeometric_upper_tail(131072, 200, 200, 200) == 0.0);
  CHECK(contains(
      message_of<cna::ValueError>([] { (void)cna::hypergeometric_upper_tail(5, 6, 1, 1); }),
      "population of 5, got 6 and 1"));
}

TEST_CASE("mcnemar_exact: equals the two-sided binomial sum", "[core][statistics]") {
  for (int gained = 0; gained <= 12; ++gained) {
    for (int lost = 0; lost <= 12; ++lost) {
      long double sum = 0.0L;
      for (int i = 0; i <= std::min(gained, lost); ++i) sum += choose(gained + lost, i);
      const long double p = 2.0L * sum / std::pow(2.0L, gained + lost);
      CHECK(cna::mcnemar_exact(gained, lost) ==
            Approx(static_cast<double>(std::min(1.0L, p))).epsilon(1e-12));
    }
  }
  CHECK(cna::mcnemar_exact(0, 0) == 1.0);
  CHECK(cna::mcnemar_exact(0, 6) == Approx(0.03125));
  CHECK(contains(message_of<cna::ValueError>([] { (void)cna::mcnemar_exact(-1, 2); }),
                 "got -1 and 2"));
}

TEST_CASE("threshold_at: the lowest that a share of the negatives passes", "[core][statistics]") {
  const std::vector<double> positive{0.5, 2.0, 3.0, 4.0}, negative{-1.0, 0.0, 1.0, 2.5};
  const auto none = cna::threshold_at(positive, negative, 0.0);
  CHECK(none.value == 2.75);
  CHECK(none.true_positives == 0.5);
  CHECK(none.false_positives == 0.0);
  const auto quarter = cna::threshold_at(positive, negative, 0.25);
  CHECK(quarter.value == 1.5);
  CHECK(quarter.true_positives == 0.75);
  CHECK(quarter.false_positives == 0.25);
  const auto nobody = cna::threshold_at(std::vector{0.0}, std::vector{1.0, 1.0}, 0.4);
  CHECK(nobody.value == 1.0);
  CHECK(nobody.true_positives + nobody.false_positives == 0.0);
  CHECK_THROWS_AS(cna::threshold_at({}, negative, 0.0), cna::ValueError);
  CHECK_THROWS_AS(cna::threshold_at(positive, negative, 1.0), cna::ValueError);
  CHECK_THROWS_AS(cna::threshold_at(positive, std::vector{std::nan("")}, 0.0), cna::ValueError);
}
