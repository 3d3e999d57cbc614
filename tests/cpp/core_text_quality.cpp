#include <array>
#include <cstdint>
#include <random>
#include <set>
#include <span>
#include <vector>

#include "catch.hpp"
#include "cna/text_quality.hpp"

using cna::composite_quality;
using cna::four_gram_quality;
using cna::n_gram_quality;
using cna::test::Approx;
using cna::test::message_of;

TEST_CASE("four_gram_quality: a text without repeats scores 1", "[core][text_quality]") {
  CHECK(four_gram_quality("the cat sat on the mat and slept") == 1.0);
}

TEST_CASE("four_gram_quality: a text shorter than one n-gram scores 1", "[core][text_quality]") {
  CHECK(four_gram_quality("") == 1.0);
  CHECK(four_gram_quality(" \t\n ") == 1.0);
  CHECK(four_gram_quality("no no no") == 1.0);
  CHECK(four_gram_quality("no no no no") == 1.0);
}

TEST_CASE("four_gram_quality: counts repeated n-grams, the last one included",
          "[core][text_quality]") {
  CHECK(four_gram_quality("no no no no no") == Approx(0.5));        // 2 n-grams, 1 distinct
  CHECK(four_gram_quality("a b c d a b c d") == Approx(0.8));       // 5 n-grams, 4 distinct
  CHECK(four_gram_quality("a b a b a b", 2) == Approx(2.0 / 5.0));  // 5 bigrams, 2 distinct
  CHECK(four_gram_quality("x x y", 1) == Approx(2.0 / 3.0));
}

TEST_CASE("four_gram_quality: white space does not matter, capitals do", "[core][text_quality]") {
  CHECK(four_gram_quality("a  b\tc\nd a\r\nb c d ") == Approx(0.8));
  CHECK(four_gram_quality("a b c d A b c d") == 1.0);
}

TEST_CASE("four_gram_quality: words joined differently are different n-grams",
          "[core][text_quality]") {
  CHECK(four_gram_quality("ab c a bc", 2) == 1.0);
}

TEST_CASE("four_gram_quality: text in any script is safe", "[core][text_quality]") {
  CHECK(four_gram_quality("猫 が 寝 る 猫 が 寝 る") == Approx(0.8));
  CHECK(four_gram_quality("\xff\xfe \x80 \xc3 x") == 1.0);
}

TEST_CASE("four_gram_quality: n below 1 is an error", "[core][text_quality]") {
  CHECK(message_of<cna::ValueError>([] { (void)four_gram_quality("a", 0); }) ==
        "four_gram_quality: expected n of 1 or more, got 0; 4 is the authors'");
}

namespace {

double quality_of(const std::vector<int64_t>& ids, int n = 4) {
  return n_gram_quality(std::span<const int64_t>(ids), n);
}

}  // namespace

TEST_CASE("n_gram_quality: counts repeated n-grams of any items", "[core][text_quality]") {
  CHECK(quality_of({}) == 1.0);
  CHECK(quality_of({7, 7, 7}) == 1.0);
  CHECK(quality_of({7, 7, 7, 7, 7}) == Approx(0.5));
  CHECK(quality_of({1, 2, 3, 4, 1, 2, 3, 4}) == Approx(0.8));
  CHECK(quality_of({1, 2, 1, 2, 1, 2}, 2) == Approx(2.0 / 5.0));
  CHECK(message_of<cna::ValueError>([] { (void)quality_of({1}, 0); }) ==
        "n_gram_quality: expected n of 1 or more, got 0; 4 is the authors'");
}

TEST_CASE("n_gram_quality: a set of n-grams gives the same on random ids", "[core][text_quality]") {
  std::mt19937 random(3);
  for (int round = 0; round < 200; ++round) {
    std::vector<int64_t> ids(random() % 60);
    for (int64_t& id : ids) id = static_cast<int64_t>(random() % 3);
    if (ids.size() < 4) continue;
    std::set<std::array<int64_t, 4>> distinct;
    for (std::size_t i = 0; i + 4 <= ids.size(); ++i)
      distinct.insert({ids[i], ids[i + 1], ids[i + 2], ids[i + 3]});
    const double total = static_cast<double>(ids.size() - 3);
    CHECK(quality_of(ids) == Approx(1.0 - (total - static_cast<double>(distinct.size())) / total));
  }
}

TEST_CASE("composite_quality: each part takes its own weight", "[core][text_quality]") {
  CHECK(composite_quality("") == 1.0);
  // Ten different words: only the most frequent word counts, 1 of 10.
  CHECK(composite_quality("a b c d e f g h i j") == Approx(1 - 0.10 / 10));
  // One of ten words has a backslash.
  CHECK(composite_quality("\\a b c d e f g h i j") == Approx(1 - 0.10 / 10 - 0.20 / 10));
  // One of 19 characters is outside ASCII, though it takes two bytes.
  CHECK(composite_quality("é b c d e f g h i j") == Approx(1 - 0.10 / 10 - 0.05 / 19));
  // Two equal sentences; six words, three distinct; 4 3-grams and 3 4-grams, none repeated
  // ("c." and "c!" differ as words).
  CHECK(composite_quality("a b c. A b c!") ==
        Approx(1 - 0.15 * (1 - 4.0 / 6) - 0.10 - 0.10 * 2 / 6));
  // One word five times: 3 3-grams and 2 4-grams, one distinct each.
  CHECK(composite_quality("no No NO no no") ==
        Approx(1 - 0.20 * 2 / 3 - 0.20 / 2 - 0.15 * (1 - 1.0 / 5) - 0.10));
}
