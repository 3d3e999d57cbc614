/// Small exact statistics: intervals for a rate, overlap of two sets, a paired test.
///
///   Wilson interval: the p with |rate - p| <= z * sqrt(p * (1 - p) / n)
///   hypergeometric:  P[X >= x], X = marked items in n draws from N items, K of them marked
///   McNemar, exact:  the binomial(b + c, 1/2) two-sided p of b against c discordant pairs
///   threshold:       the lowest one that at most a share of the negative scores passes
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <functional>
#include <limits>
#include <numbers>
#include <span>
#include <vector>

#include "cna/error.hpp"

namespace cna {

/// A closed interval.
struct Interval {
  double low = 0.0;
  double high = 1.0;

  friend constexpr bool operator==(const Interval&, const Interval&) = default;
};

/// The x with P[Z <= x] = p for a standard normal Z; throws ValueError unless 0 < p < 1.
[[nodiscard]] inline double inverse_normal_cdf(double p) {
  if (!(p > 0.0 && p < 1.0)) {
    throw_value_error("inverse_normal_cdf: expected p between 0 and 1, got {}; pass a probability",
                      p);
  }
  if (p > 0.5) return -inverse_normal_cdf(1.0 - p);
  double low = -40.0;
  double high = 0.0;
  for (;;) {  // halves until the two neighbours in double precision are left
    const double middle = 0.5 * (low + high);
    if (middle <= low || middle >= high) return high;
    (0.5 * std::erfc(-middle / std::numbers::sqrt2) < p ? low : high) = middle;
  }
}

/// The Wilson score interval for a rate of `successes` in `n` trials.
/// Throws ValueError unless n >= 1, 0 <= successes <= n and 0 < confidence < 1.
[[nodiscard]] inline Interval wilson_interval(int64_t successes, int64_t n,
                                              double confidence = 0.95) {
  if (n < 1 || successes < 0 || successes > n) {
    throw_value_error(
        "wilson_interval: expected 0 <= successes <= n and n >= 1, got {} of {}; "
        "count at least one trial",
        successes, n);
  }
  if (!(confidence > 0.0 && confidence < 1.0)) {
    throw_value_error("wilson_interval: expected a confidence between 0 and 1, got {}; pass 0.95",
                      confidence);
  }
  const double z = -inverse_normal_cdf(0.5 * (1.0 - confidence));
  const double count = static_cast<double>(n);
  const double rate = static_cast<double>(successes) / count;
  const double scale = 1.0 + z * z / count;
  const double centre = (rate + z * z / (2.0 * count)) / scale;
  const double reach =
      z / scale * std::sqrt(rate * (1.0 - rate) / count + z * z / (4.0 * count * count));
  return {successes == 0 ? 0.0 : std::max(0.0, centre - reach),
          successes == n ? 1.0 : std::min(1.0, centre + reach)};
}

/// The Jaccard index of two sets: shared / (left + right - shared); 1 for two empty sets.
/// Throws ValueError unless 0 <= shared <= min(left, right).
[[nodiscard]] inline double jaccard(int64_t left, int64_t right, int64_t shared) {
  if (shared < 0 || shared > left || shared > right) {
    throw_value_error(
        "jaccard: expected 0 <= shared <= both sizes, got {} shared of {} and {}; "
        "count each member once",
        shared, left, right);
  }
  const int64_t either = left + right - shared;
  return either == 0 ? 1.0 : static_cast<double>(shared) / static_cast<double>(either);
}

/// The natural logarithm of "n choose k"; throws ValueError unless 0 <= k <= n.
[[nodiscard]] inline double log_choose(int64_t n, int64_t k) {
  if (k < 0 || k > n) {
    throw_value_error("log_choose: expected 0 <= k <= n, got k = {}, n = {}; check the counts", k,
                      n);
  }
  k = std::min(k, n - k);
  double sum = 0.0;  // a sum of logarithms: closer than lgamma for large n, and safe in threads
  for (int64_t i = 1; i <= k; ++i) {
    sum += std::log(static_cast<double>(n - k + i) / static_cast<double>(i));
  }
  return sum;
}

/// log P[X >= observed], X the marked items in `draws` draws without replacement from `population`
/// items of which `marked` are marked; -infinity if that cannot happen.
/// Throws ValueError unless marked and draws lie between 0 and population.
[[nodiscard]] inline double log_hypergeometric_upper_tail(int64_t population, int64_t marked,
                                                          int64_t draws, int64_t observed) {
  if (marked < 0 || draws < 0 || marked > population || draws > population) {
    throw_value_error(
        "hypergeometric_upper_tail: expected marked and draws between 0 and the "
        "population of {}, got {} and {}; check the counts",
        population, marked, draws);
  }
  const int64_t least = std::max<int64_t>(0, draws + marked - population);
  const int64_t most = std::min(marked, draws);
  if (observed <= least) return 0.0;
  if (observed > most) return -std::numeric_limits<double>::infinity();
  double term = log_choose(marked, observed) + log_choose(population - marked, draws - observed) -
                log_choose(population, draws);
  double largest = term;
  double sum = 1.0;  // the tail is sum * exp(largest)
  for (int64_t x = observed; x < most; ++x) {
    const double up = static_cast<double>(marked - x) * static_cast<double>(draws - x);
    const double down =
        static_cast<double>(x + 1) * static_cast<double>(population - marked - draws + x + 1);
    term += std::log(up / down);
    if (term > largest) {
      sum = sum * std::exp(largest - term) + 1.0;
      largest = term;
    } else {
      sum += std::exp(term - largest);
    }
  }
  return std::min(0.0, largest + std::log(sum));
}

/// P[X >= observed], see log_hypergeometric_upper_tail; 0 where it is too small for a double.
[[nodiscard]] inline double hypergeometric_upper_tail(int64_t population, int64_t marked,
                                                      int64_t draws, int64_t observed) {
  return std::exp(log_hypergeometric_upper_tail(population, marked, draws, observed));
}

/// The exact two-sided McNemar p for pairs that changed: `gained` one way, `lost` the other.
/// 1 if nothing changed. Throws ValueError if a count is negative.
[[nodiscard]] inline double mcnemar_exact(int64_t gained, int64_t lost) {
  if (gained < 0 || lost < 0) {
    throw_value_error(
        "mcnemar_exact: expected counts of 0 or more, got {} and {}; count the pairs "
        "that changed each way",
        gained, lost);
  }
  const int64_t n = gained + lost;
  const int64_t fewer = std::min(gained, lost);
  double term = -static_cast<double>(n) * std::numbers::ln2;
  double sum = 0.0;
  for (int64_t i = 0; i <= fewer; ++i) {
    sum += std::exp(term);
    term += std::log(static_cast<double>(n - i) / static_cast<double>(i + 1));
  }
  return std::min(1.0, 2.0 * sum);
}

/// A threshold on scores, and what it does on the scores that it was chosen on.
struct Threshold {
  double value = 0.0;           ///< a score above it passes
  double true_positives = 0.0;  ///< share of the positive scores that passes
  double false_positives = 0.0;
};

/// The lowest threshold that at most a share `most` of the negative scores passes, halfway to the
/// next score above it. Throws ValueError for an empty set, a score that is not finite, or a share
/// outside [0, 1).
[[nodiscard]] inline Threshold threshold_at(std::span<const double> positive,
                                            std::span<const double> negative, double most) {
  if (positive.empty() || negative.empty() || !(most >= 0.0 && most < 1.0))
    throw_value_error(
        "threshold: expected scores of both sets and a share from 0 to below 1, got {} positive, "
        "{} negative and {}; pass 0.05",
        positive.size(), negative.size(), most);
  std::vector<double> falling(negative.begin(), negative.end());
  std::vector<double> all(positive.begin(), positive.end());
  all.insert(all.end(), negative.begin(), negative.end());
  if (!std::all_of(all.begin(), all.end(), [](double x) { return std::isfinite(x); }))
    throw_value_error("threshold: expected finite scores, got NaN or infinity; score again");
  std::sort(falling.begin(), falling.end(), std::greater<>());
  const auto allowed = static_cast<std::size_t>(most * static_cast<double>(falling.size()));
  const double floor = falling[allowed];  // this one must not pass any more
  double next = std::numeric_limits<double>::infinity();
  for (const double x : all)
    if (x > floor) next = std::min(next, x);
  Threshold out{std::isfinite(next) ? floor + 0.5 * (next - floor) : floor};
  const auto share = [&](std::span<const double> scores) {
    const auto n =
        std::count_if(scores.begin(), scores.end(), [&](double x) { return x > out.value; });
    return static_cast<double>(n) / static_cast<double>(scores.size());
  };
  out.true_positives = share(positive);
  out.false_positives = share(negative);
  return out;
}

}  // namespace cna
