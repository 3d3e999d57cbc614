#include <ATen/ATen.h>

#include "catch.hpp"
#include "cna/error.hpp"
#include "cna/torch/intervention.hpp"

using namespace cna;

using cna::test::contains;
using cna::test::message_of;

namespace {

const Circuit kCircuit({3, 5}, {{0, 1, 2.0}, {2, 4, -1.0}});

/// What the edits of one slot make of ones [rows, 1, features].
at::Tensor effect(const std::vector<TapEdit>& edits, Site site, int64_t layer, int64_t rows,
                  int64_t features) {
  at::Tensor x = at::ones({rows, 1, features});
  for (const TapEdit& edit : edits) {
    if (edit.slot != static_cast<int64_t>(site) * 3 + layer) continue;
    if (edit.scale.defined()) x = x * edit.scale;
    if (edit.shift.defined()) x = x + edit.shift;
  }
  return x.squeeze(1);
}

std::vector<TapEdit> bind(const Intervention& i, std::vector<int64_t> arms) {
  return i.bind(arms, 3, at::kFloat, c10::Device(c10::kCPU));
}

}  // namespace

TEST_CASE("Intervention: a multiplier of one is no edit at all") {
  CHECK(Intervention::scale(kCircuit, std::vector{1.0}).is_identity());
  CHECK(Intervention(4).is_identity());
  CHECK(Intervention::scale(Circuit({3, 5}, {}), std::vector{0.0}).is_identity());
  CHECK(bind(Intervention::scale(kCircuit, std::vector{0.0, 1.0}), {1, 1}).empty());
}

TEST_CASE("Intervention: a digest knows an arm by all that it does") {
  const auto digest = [](const Intervention& i) { return i.digest(); };
  const auto steer = Intervention::scale(kCircuit, std::vector{0.5});
  CHECK(digest(steer).size() == 16);
  CHECK(digest(steer) == digest(Intervention::scale(kCircuit, std::vector{0.5})));
  const Circuit other({3, 5}, {{0, 2, 2.0}, {2, 4, -1.0}});
  const at::Tensor v = at::ones(4);
  const std::vector<Intervention> all{Intervention(1),
                                      Intervention(2),
                                      steer,
                                      Intervention::scale(kCircuit, std::vector{0.25}),
                                      Intervention::scale(other, std::vector{0.5}),
                                      Intervention::set(kCircuit, std::vector{0.5, 0.5}),
                                      Intervention::add(Site::residual, 1, v, std::vector{0.5}),
                                      Intervention::add(Site::mlp_output, 1, v, std::vector{0.5}),
                                      Intervention::add(Site::residual, 2, v, std::vector{0.5}),
                                      Intervention::add(Site::residual, 1, 2 * v, std::vector{0.5}),
                                      Intervention::bias_logits(v, std::vector{0.5}),
                                      steer.from_last(1),
                                      steer.from_last(2)};
  for (size_t i = 0; i < all.size(); ++i)
    for (size_t j = 0; j < i; ++j) CHECK(digest(all[i]) != digest(all[j]));
  // The numbers count, not how they came about.
  CHECK(digest(steer.then(steer)) == digest(Intervention::scale(kCircuit, std::vector{0.25})));
  CHECK(digest(Intervention::add(Site::residual, 1, 2 * v, std::vector{0.5})) ==
        digest(Intervention::add(Site::residual, 1, v, std::vector{1.0})));
}

TEST_CASE("Intervention: each row follows its arm") {
  const auto steer = Intervention::scale(kCircuit, std::vector{0.0, 2.0});
  const at::Tensor x = effect(bind(steer, {1, 0, 1}), Site::neuron, 0, 3, 5);
  CHECK(x.select(1, 1).equal(at::tensor({2.0f, 0.0f, 2.0f})));
  CHECK(x.select(1, 0).equal(at::ones(3)));
  CHECK(effect(bind(steer, {0}), Site::neuron, 2, 1, 5)[0][4].item<float>() == 0.0f);
}

TEST_CASE("Intervention: then applies one after the other") {
  const auto twice = Intervention::scale(kCircuit, std::vector{2.0});
  const auto set = Intervention::set(kCircuit, std::vector{5.0, 7.0});
  CHECK(effect(bind(twice.then(set), {0}), Site::neuron, 0, 1, 5)[0][1].item<float>() == 5.0f);
  CHECK(effect(bind(set.then(twice), {0}), Site::neuron, 0, 1, 5)[0][1].item<float>() == 10.0f);
}

TEST_CASE("Intervention: concat keeps the arms of its parts apart") {
  const auto vector = Intervention::add(Site::residual, 1, at::ones(4), std::vector{3.0});
  const auto both = Intervention::concat({Intervention::ablate(kCircuit), vector});
  REQUIRE(both.arms() == 2);
  const auto edits = bind(both, {0, 1});
  CHECK(effect(edits, Site::neuron, 0, 2, 5).select(1, 1).equal(at::tensor({0.0f, 1.0f})));
  CHECK(effect(edits, Site::residual, 1, 2, 4).select(1, 0).equal(at::tensor({1.0f, 4.0f})));
}

TEST_CASE("Intervention: a circuit or vector of another model is refused") {
  const auto steer = Intervention::ablate(kCircuit);
  CHECK_NOTHROW(steer.require_fits({3, 5}, 4, true));
  CHECK_THROWS_AS(steer.require_fits({3, 6}, 4, true), ValueError);
  CHECK_THROWS_AS(steer.require_fits({2, 5}, 4, true), ValueError);
  const auto add = Intervention::add(Site::residual, 0, at::ones(4), std::vector{1.0});
  CHECK_THROWS_AS(add.require_fits({3, 5}, 5, true), ValueError);
  CHECK(contains(message_of<std::exception>([&] { (void)add.require_fits({3, 5}, 4, false); }),
                 "mlp_output"));
}

TEST_CASE("Intervention: strengths that are not finite are refused") {
  CHECK_THROWS_AS((void)Intervention::scale(kCircuit, std::vector{std::nan("")}), ValueError);
  CHECK_THROWS_AS((void)Intervention::set(kCircuit, std::vector{1.0}), ValueError);
  CHECK_THROWS_AS(Intervention::scale(kCircuit, std::vector{1.0}).select(std::vector<int64_t>{1}),
                  IndexError);
}
