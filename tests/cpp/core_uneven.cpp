#include "catch.hpp"
#include "cna/attribution.hpp"
#include "cna/circuit.hpp"
#include "cna/universal.hpp"
#include "random_grid.hpp"

using cna::Circuit;
using cna::Grid;
using cna::GridShape;
using cna::test::contains;
using cna::test::message_of;

namespace {

const GridShape kUneven = GridShape::of({3, 0, 5, 2});

/// Filled where there are neurons, 0 elsewhere.
Grid random_uneven(cna::test::Random& random) {
  Grid out = Grid::Zero(4, 5);
  for (int64_t layer = 0; layer < 4; ++layer)
    for (int64_t index = 0; index < kUneven.width_of(layer); ++index)
      out(layer, index) = cna::test::uniform(random);
  return out;
}

}  // namespace

TEST_CASE("GridShape: layers of unlike width count their own neurons only", "[core][uneven]") {
  CHECK(kUneven.layers == 4);
  CHECK(kUneven.width == 5);
  CHECK(kUneven.size() == 10);
  CHECK(kUneven.places() == 20);
  CHECK(kUneven.contains(0, 2));
  CHECK_FALSE(kUneven.contains(0, 3));
  CHECK_FALSE(kUneven.contains(1, 0));
  CHECK(kUneven.gaps() == std::vector<int64_t>{3, 4, 5, 6, 7, 8, 9, 17, 18, 19});
  CHECK(GridShape::of({7, 7}) == GridShape{2, 7});
  CHECK(cna::circuit_size(kUneven, 0.3) == 3);
}

TEST_CASE("top_k: takes neurons only, though every score is 0", "[core][uneven]") {
  cna::test::Random random(3);
  const Grid zeros = Grid::Zero(4, 5);
  CHECK(cna::top_k(zeros, zeros, 10, nullptr, &kUneven).size() == 10);
  for (const cna::Neuron& n : cna::top_k(zeros, zeros, 10, nullptr, &kUneven))
    CHECK(kUneven.contains(n.layer, n.index));
  CHECK(contains(
      message_of<cna::ValueError>([&] { (void)cna::top_k(zeros, zeros, 11, nullptr, &kUneven); }),
      "between 1 and the 10 neurons"));
  const Grid scores = random_uneven(random);
  const auto best = cna::top_k(scores, scores, 4, nullptr, &kUneven);
  CHECK(best == cna::top_k(scores, 4));
  const cna::NeuronSet outside{{0, 4}};
  CHECK_THROWS_AS(cna::top_k(scores, scores, 1, &outside, &kUneven), cna::IndexError);
}

TEST_CASE("UniversalCounter: what stands for no neuron is no universal one", "[core][uneven]") {
  cna::UniversalCounter counter(kUneven, 1.0);  // all ten of each prompt
  for (int i = 0; i < 10; ++i) counter.add(std::vector<float>(20, 0.0F));
  for (const cna::NeuronId id : counter.universal()) CHECK(kUneven.contains(id.layer, id.index));
}

TEST_CASE("Circuit: of layers of unlike width comes back from its file", "[core][uneven]") {
  const Circuit circuit(kUneven, {{2, 4, 1.5}, {0, 2, -2.0}}, {}, {{3, 1}});
  const std::string text = cna::to_json(circuit);
  CHECK(contains(text, "\"format_version\":2"));
  CHECK(contains(text, "\"widths\":[3,0,5,2]"));
  CHECK(cna::circuit_from_json(text) == circuit);
  CHECK(contains(cna::to_json(Circuit({2, 3}, {})), "\"format_version\":1,\"n_layers\":2"));
  CHECK_FALSE(contains(cna::to_json(Circuit({2, 3}, {})), "widths"));
  CHECK(circuit.layer_counts() == std::vector<int64_t>{1, 0, 1, 0});
  CHECK_THROWS_AS(Circuit(kUneven, {{1, 0, 1.0}}), cna::IndexError);
  CHECK(contains(message_of<cna::IndexError>([] { (void)Circuit(kUneven, {{0, 3, 1.0}}); }),
                 "neurons below 3, got layer 0, neuron 3"));
  CHECK_THROWS_AS(Circuit({4, 5, {3, 0, 5}}, {}), cna::ValueError);
  CHECK_THROWS_AS(Circuit({4, 6, {3, 0, 5, 2}}, {}), cna::ValueError);
  CHECK_THROWS_AS(cna::compare(circuit, Circuit({4, 5}, {})), cna::ValueError);
  for (const char* widths : {"[3,0,5]", "[3,0,9,2]", "[3,-1,5,2]", "[3,0,5,\"2\"]"}) {
    std::string bad = text;
    bad.replace(bad.find("[3,0,5,2]"), 9, widths);
    CHECK_THROWS_AS(cna::circuit_from_json(bad), cna::ValueError);
  }
}

TEST_CASE("GridShape: experts come first in their layer, then what every token sees",
          "[core][uneven]") {
  const GridShape shape = GridShape::of({5, 14}, {{0, 0}, {3, 4}});
  CHECK(shape.expert_of(0, 4) == cna::ExpertPlace{-1, 4});
  CHECK(shape.expert_of(1, 0) == cna::ExpertPlace{0, 0});
  CHECK(shape.expert_of(1, 11) == cna::ExpertPlace{2, 3});
  CHECK(shape.expert_of(1, 12) == cna::ExpertPlace{-1, 0});
  CHECK(GridShape::of({5, 14}, {{0, 0}, {0, 0}}) == GridShape::of({5, 14}));
  CHECK(shape != GridShape::of({5, 14}));

  const Circuit circuit(shape, {{1, 13, 2.0}, {0, 1, -1.0}});
  const std::string text = cna::to_json(circuit);
  CHECK(contains(text, "\"format_version\":3"));
  CHECK(contains(text, "\"experts\":[[0,0],[3,4]]"));
  CHECK(cna::circuit_from_json(text) == circuit);
  CHECK(contains(cna::to_json(Circuit(GridShape::of({5, 14}), {})), "\"format_version\":2"));
  CHECK(contains(cna::to_json(Circuit({2, 5}, {})), "\"format_version\":1"));
}

TEST_CASE("Circuit: experts must fit their layer", "[core][uneven]") {
  const auto message = [](std::vector<cna::Experts> experts) {
    GridShape shape = GridShape::of({5, 14});
    shape.experts = std::move(experts);
    return message_of<cna::ValueError>([&] { (void)Circuit(shape, {}); });
  };
  CHECK(contains(message({cna::Experts{0, 0}}), "expected experts for each of 2 layers, got 1"));
  CHECK(
      contains(message({cna::Experts{}, {3, 5}}), "within the 14 neurons of layer 1, got 3 of 5"));
  CHECK(contains(message({cna::Experts{}, {-1, 2}}), "got -1 of 2"));
}
