#include <set>

#include "catch.hpp"
#include "cna/circuit.hpp"
#include "random_grid.hpp"

using cna::Circuit;
using cna::Neuron;
using cna::NeuronId;
using cna::test::Approx;
using cna::test::contains;
using cna::test::message_of;
using cna::test::Random;

namespace {

constexpr cna::GridShape kShape{4, 6};

Circuit random_circuit(Random& random) {
  std::vector<Neuron> neurons;
  for (int32_t layer = 0; layer < kShape.layers; ++layer) {
    for (int32_t index = 0; index < kShape.width; ++index) {
      if (random() % 3 == 0) neurons.push_back({layer, index, cna::test::uniform(random)});
    }
  }
  return Circuit(kShape, neurons);
}

std::set<NeuronId> places(const Circuit& circuit) {
  std::set<NeuronId> result;
  for (const Neuron& neuron : circuit.neurons()) result.insert(neuron.id());
  return result;
}

/// The delta the circuit gives a neuron; 0 if it is not there.
double delta_of(const Circuit& circuit, NeuronId id) {
  for (const Neuron& neuron : circuit.neurons()) {
    if (neuron.id() == id) return neuron.delta;
  }
  return 0.0;
}

}  // namespace

TEST_CASE("Circuit: sorts by |delta|, then layer, then index", "[core][circuit]") {
  const Circuit circuit(kShape,
                        {{3, 0, 1.0}, {1, 2, -1.0}, {0, 5, 0.5}, {1, 1, 1.0}, {2, 2, -4.0}});
  CHECK(circuit.neurons() ==
        std::vector<Neuron>{{2, 2, -4.0}, {1, 1, 1.0}, {1, 2, -1.0}, {3, 0, 1.0}, {0, 5, 0.5}});
  CHECK(circuit.size() == 5);
}

TEST_CASE("Circuit: contains, layer counts and late share agree with the list", "[core][circuit]") {
  Random random(1);
  for (int trial = 0; trial < 20; ++trial) {
    const Circuit circuit = random_circuit(random);
    const auto set = places(circuit);
    std::vector<int64_t> counts(4, 0);
    for (const NeuronId id : set) counts[static_cast<std::size_t>(id.layer)] += 1;
    CHECK(circuit.layer_counts() == counts);
    for (int32_t layer = -1; layer <= kShape.layers; ++layer) {
      for (int32_t index = -1; index <= kShape.width; ++index) {
        if (circuit.contains(layer, index) != set.contains({layer, index})) FAIL("differs");
      }
    }
    if (circuit.empty()) continue;
    const auto total = static_cast<double>(circuit.size());
    CHECK(circuit.share_in_last_layers(0) == 0.0);
    CHECK(circuit.share_in_last_layers(1) == Approx(static_cast<double>(counts[3]) / total));
    CHECK(circuit.share_in_last_layers(3) == Approx(1.0 - static_cast<double>(counts[0]) / total));
    CHECK(circuit.share_in_last_layers(9) == 1.0);
  }
  CHECK_FALSE(Circuit(kShape, {{0, 0, 1.0}}).contains(int64_t{1} << 32, 0));
}

TEST_CASE("Circuit: an empty one is allowed and has no late share", "[core][circuit]") {
  const Circuit circuit(kShape, {});
  CHECK(circuit.empty());
  CHECK(circuit.share_in_last_layers(3) == 0.0);
  CHECK(circuit.layer_counts() == std::vector<int64_t>(4, 0));
}

TEST_CASE("Circuit: set algebra is that of sets of places", "[core][circuit]") {
  Random random(2);
  for (int trial = 0; trial < 30; ++trial) {
    const Circuit a = random_circuit(random);
    const Circuit b = random_circuit(random);
    const auto left = places(a);
    const auto right = places(b);
    std::set<NeuronId> either = left;
    either.insert(right.begin(), right.end());
    std::set<NeuronId> both;
    std::set<NeuronId> only;
    for (const NeuronId id : left) (right.contains(id) ? both : only).insert(id);
    CHECK(places(a | b) == either);
    CHECK(places(a & b) == both);
    CHECK(places(a - b) == only);
    CHECK((a | b).size() + (a & b).size() == a.size() + b.size());
    for (const NeuronId id : either) {
      const double expected = left.contains(id) ? delta_of(a, id) : delta_of(b, id);
      if (delta_of(a | b, id) != expected) FAIL("union changed a delta");
    }
    for (const NeuronId id : both) {
      if (delta_of(a & b, id) != delta_of(a, id)) FAIL("intersection changed a delta");
    }
    const Circuit joined = a | b;
    CHECK(std::is_sorted(joined.neurons().begin(), joined.neurons().end(), cna::stronger));
  }
}

TEST_CASE("Circuit: set algebra notes the operation and keeps both filters", "[core][circuit]") {
  const Circuit a(kShape, {{0, 0, 1.0}}, {{"model", "\"x\""}}, {{1, 1}, {0, 3}});
  const Circuit b(kShape, {{0, 0, 2.0}, {0, 1, 1.0}}, {}, {{1, 1}, {2, 0}});
  const Circuit joined = a | b;
  CHECK(joined.provenance() ==
        cna::Provenance{{"operation", "\"union\""}, {"left_size", "1"}, {"right_size", "2"}});
  CHECK(joined.universal_removed() == std::vector<NeuronId>{{0, 3}, {1, 1}, {2, 0}});
  CHECK((a & b).provenance().at("operation") == "\"intersection\"");
  CHECK((a - b).provenance().at("operation") == "\"difference\"");
}

TEST_CASE("Circuit: set algebra of different models is an error", "[core][circuit]") {
  const Circuit a(kShape, {});
  const Circuit b({4, 7}, {});
  CHECK(message_of<cna::ValueError>([&] { (void)(a | b); }) ==
        "union: expected circuits of one model, got 4 x 6 and 4 x 7 (layers x width); find both on "
        "the same model");
  CHECK(contains(message_of<cna::ValueError>([&] { (void)(a & b); }), "intersection: expected"));
  CHECK(contains(message_of<cna::ValueError>([&] { (void)(a - b); }), "difference: expected"));
  CHECK(contains(message_of<cna::ValueError>([&] { (void)cna::compare(a, b); }),
                 "compare: expected"));
}

TEST_CASE("Circuit: a neuron outside the model is an error that names it", "[core][circuit]") {
  for (const NeuronId id : {NeuronId{4, 0}, NeuronId{0, 6}, NeuronId{-1, 0}, NeuronId{0, -2}}) {
    const std::string expected = fmt::format(
        "Circuit: expected layers below 4 and neurons below 6, got layer {}, neuron "
        "{}; use a circuit found on this model",
        id.layer, id.index);
    CHECK(message_of<cna::IndexError>([&] { Circuit(kShape, {{id.layer, id.index, 1.0}}); }) ==
          expected);
    CHECK(message_of<cna::IndexError>([&] { Circuit(kShape, {}, {}, {id}); }) == expected);
  }
}

TEST_CASE("Circuit: repeats, deltas that are no number and bad shapes are errors",
          "[core][circuit]") {
  CHECK(message_of<cna::ValueError>([] {
          Circuit(kShape, {{1, 2, 1.0}, {0, 0, 2.0}, {1, 2, -3.0}});
        }) == "Circuit: expected each neuron once, got layer 1, neuron 2 twice; drop one");
  CHECK(message_of<cna::ValueError>([] { Circuit(kShape, {{1, 2, std::nan("")}}); }) ==
        "Circuit: expected a finite delta, got nan at layer 1, neuron 2; record the activations "
        "again");
  CHECK(contains(message_of<cna::ValueError>([] { Circuit({0, 5}, {}); }), "got 0 x 5"));
  CHECK(contains(message_of<cna::ValueError>([] { Circuit({5, -1}, {}); }), "got 5 x -1"));
}

TEST_CASE("compare: counts, Jaccard and p match the definition", "[core][circuit]") {
  const Circuit a(kShape, {{0, 0, 1.0}, {0, 1, 1.0}, {0, 2, 1.0}});
  const Circuit b(kShape, {{0, 1, -9.0}, {0, 2, 1.0}, {3, 3, 1.0}, {3, 4, 1.0}});
  const cna::Overlap overlap = cna::compare(a, b);
  CHECK(overlap.left == 3);
  CHECK(overlap.right == 4);
  CHECK(overlap.shared == 2);
  CHECK(overlap.jaccard == Approx(0.4));
  // (C(3,2) C(21,2) + C(3,3) C(21,1)) / C(24,4)
  CHECK(overlap.p_value == Approx((3.0 * 210.0 + 21.0) / 10626.0).epsilon(1e-12));
  CHECK(overlap.log10_p_value == Approx(std::log10(651.0 / 10626.0)).epsilon(1e-12));
}

TEST_CASE("compare: no overlap has p 1, the same circuit Jaccard 1", "[core][circuit]") {
  const Circuit a(kShape, {{0, 0, 1.0}});
  const Circuit b(kShape, {{0, 1, 1.0}});
  CHECK(cna::compare(a, b).p_value == 1.0);
  CHECK(cna::compare(a, b).jaccard == 0.0);
  CHECK(cna::compare(a, a).jaccard == 1.0);
  CHECK(cna::compare(a, a).p_value == Approx(1.0 / 24.0));
}
