#include "catch.hpp"
#include "cna/universal.hpp"
#include "random_grid.hpp"

using cna::NeuronId;
using cna::UniversalCounter;
using cna::test::contains;
using cna::test::message_of;
using cna::test::Random;

namespace {

std::vector<float> random_prompt(Random& random, cna::GridShape shape) {
  std::vector<float> prompt;
  for (int64_t i = 0; i < shape.size(); ++i) {
    prompt.push_back(static_cast<float>(cna::test::uniform(random)));
  }
  return prompt;
}

}  // namespace

TEST_CASE("UniversalCounter: counts equal a full sort of every prompt", "[core][universal]") {
  Random random(1);
  const cna::GridShape shape{4, 25};
  UniversalCounter counter(shape, 0.07);
  REQUIRE(counter.top() == 7);
  cna::CountGrid expected = cna::CountGrid::Zero(4, 25);
  for (int p = 0; p < 12; ++p) {
    auto prompt = random_prompt(random, shape);
    if (p % 2 == 0) {
      for (float& value : prompt) value = std::round(value * 3.0F);  // many ties
    }
    counter.add(prompt);
    std::vector<int64_t> order(prompt.size());
    for (std::size_t i = 0; i < order.size(); ++i) order[i] = static_cast<int64_t>(i);
    std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) {
      return std::abs(prompt[static_cast<std::size_t>(a)]) >
             std::abs(prompt[static_cast<std::size_t>(b)]);
    });
    for (std::size_t i = 0; i < 7; ++i) expected(order[i] / 25, order[i] % 25) += 1;
  }
  CHECK(counter.prompts() == 12);
  CHECK((counter.counts() == expected).all());
}

TEST_CASE("UniversalCounter: 8 of 10 prompts make a neuron universal, 7 do not",
          "[core][universal]") {
  UniversalCounter counter({2, 5}, 0.2);  // two hits per prompt
  for (int p = 0; p < 10; ++p) {
    std::vector<float> prompt(10, 0.0F);
    prompt[p < 8 ? 9 : 0] = -3.0F;  // layer 1, neuron 4: 8 times, by magnitude
    prompt[p < 7 ? 2 : 1] = 2.0F;   // layer 0, neuron 2: 7 times
    counter.add(prompt);
  }
  CHECK(counter.counts()(1, 4) == 8);
  CHECK(counter.counts()(0, 2) == 7);
  CHECK(counter.universal() == std::vector<NeuronId>{{1, 4}});
  CHECK(counter.universal(0.7) == std::vector<NeuronId>{{0, 2}, {1, 4}});
  CHECK(counter.universal(0.81).empty());
}

TEST_CASE("UniversalCounter: the threshold is the exact ceiling for every prompt count",
          "[core][universal]") {
  for (int prompts = 10; prompts <= 200; ++prompts) {
    const int least = (4 * prompts + 4) / 5;  // ceil(0.8 * prompts) in whole numbers
    for (const int hits : {least - 1, least}) {
      UniversalCounter counter({1, 2}, 0.5);
      for (int p = 0; p < prompts; ++p) {
        const std::vector<float> prompt{p < hits ? 2.0F : 0.0F, 1.0F};
        counter.add(prompt);
      }
      const auto found = counter.universal();
      const bool first = std::find(found.begin(), found.end(), NeuronId{0, 0}) != found.end();
      if (first != (hits == least)) FAIL("wrong at " << hits << " of " << prompts);
    }
  }
  SUCCEED();
}

TEST_CASE("UniversalCounter: merging equals adding all prompts to one", "[core][universal]") {
  Random random(2);
  const cna::GridShape shape{3, 10};
  UniversalCounter all(shape, 0.1);
  UniversalCounter left(shape, 0.1);
  UniversalCounter right(shape, 0.1);
  for (int p = 0; p < 11; ++p) {
    const auto prompt = random_prompt(random, shape);
    all.add(prompt);
    (p < 4 ? left : right).add(prompt);
  }
  left.merge(right);
  CHECK(left.prompts() == 11);
  CHECK((left.counts() == all.counts()).all());
}

TEST_CASE("UniversalCounter: errors say what came and what to do", "[core][universal]") {
  UniversalCounter counter({2, 2}, 0.25);
  CHECK(message_of<cna::ValueError>([&] { counter.add(std::vector<float>(3)); }) ==
        "UniversalCounter::add: expected 2 x 2 = 4 activations, got 3; pass those of one prompt");
  CHECK(contains(message_of<cna::ValueError>(
                     [&] { counter.add(std::vector<float>{0.0F, 1.0F, std::nanf(""), 2.0F}); }),
                 "got nan at layer 1, neuron 0;"));
  CHECK(counter.prompts() == 0);
  CHECK((counter.counts() == 0).all());
  for (int p = 0; p < 9; ++p) counter.add(std::vector<float>{3.0F, 0.0F, 0.0F, 0.0F});
  CHECK(message_of<cna::ValueError>([&] { (void)counter.universal(); }) ==
        "universal: expected 10 or more prompts, got 9; add diverse prompts");
  CHECK(counter.universal(0.8, 9) == std::vector<NeuronId>{{0, 0}});
  CHECK(message_of<cna::ValueError>([&] { (void)UniversalCounter({1, 1}).universal(0.5, 0); }) ==
        "universal: expected 1 or more prompts, got 0; add diverse prompts");
  for (const double share : {0.0, -1.0, 1.1, std::nan("")}) {
    CHECK(contains(message_of<cna::ValueError>([&] { (void)counter.universal(share); }),
                   "expected a share above 0 and up to 1"));
  }
  CHECK(message_of<cna::ValueError>([&] { counter.merge(UniversalCounter({2, 3}, 0.25)); }) ==
        "UniversalCounter::merge: expected the top 1 of a 2 x 2 grid, got the top 2 of 2 x 3; "
        "count with the same model and fraction");
  CHECK(contains(message_of<cna::ValueError>([] { UniversalCounter({2, 2}, 0.0); }),
                 "expected a fraction above 0"));
}
