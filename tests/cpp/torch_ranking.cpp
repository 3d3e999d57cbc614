// Rankings that need the weights, and gates, against LiveModel's reference in float64.
#include <ATen/ATen.h>

#include <cmath>
#include <vector>

#include "catch.hpp"
#include "cna/error.hpp"
#include "cna/torch/contribution.hpp"
#include "cna/torch/gate.hpp"
#include "cna/torch/generate.hpp"
#include "cna/torch/ranking.hpp"
#include "live_model.hpp"

using namespace cna;
using test::Approx;
using test::LiveModel;

namespace {

const std::vector<TokenIds> kFor = {{17, 18, 3, 1, 4}, {17, 18, 9}, {17, 18, 2, 6, 5, 3}};
const std::vector<TokenIds> kAgainst = {{17, 18, 7, 10}, {17, 18, 13, 2}, {17, 18, 30, 4, 3}};

const LiveModel& subject() {
  static const LiveModel model(7);
  return model;
}

/// Mean over prompts of what `of` makes of each pass.
template <class Of>
at::Tensor mean_of(const std::vector<TokenIds>& prompts, Of of) {
  at::Tensor sum;
  for (const TokenIds& ids : prompts) {
    const at::Tensor mine = of(subject().run(ids));
    sum = sum.defined() ? sum + mine : mine;
  }
  return sum / static_cast<double>(prompts.size());
}

at::Tensor neurons(const LiveModel::Pass& pass) { return pass.sites[0]; }

at::Tensor down(int64_t layer) {
  return subject().layers[static_cast<size_t>(layer)].down.to(at::kDouble);
}

bool near(const at::Tensor& got, const at::Tensor& expected) {
  return (got - expected).abs().max().item<double>() <= 2e-4 * expected.abs().max().item<double>();
}

}  // namespace

TEST_CASE("contribution: the scores are those of the definition") {
  Model model = subject().host();
  const auto p = [](const LiveModel::Pass& pass) { return pass.logits[-1].softmax(-1); };
  at::Tensor u =
      (mean_of(kFor, p) - mean_of(kAgainst, p)).matmul(subject().unembed.to(at::kDouble));
  u = u / u.norm();
  const at::Tensor plus = mean_of(kFor, neurons);
  const at::Tensor size =
      mean_of(kAgainst, [](const LiveModel::Pass& pass) { return pass.sites[0].abs(); });
  std::vector<at::Tensor> expected;
  for (int64_t l = 0; l < LiveModel::kLayers; ++l)
    expected.push_back(plus[l] * u.matmul(down(l)) - 0.2 * size[l] * down(l).norm(2, 0));
  const ContributionParts parts = contribution_parts(model, kFor, kAgainst);
  CHECK(near(parts.direction, u));
  CHECK(near(parts.score(0.2), at::stack(expected)));

  DiscoverOptions options;
  options.k = 5;
  options.ranking = Ranking::contribution;
  options.penalty = 0.2;
  const Circuit circuit = discover(model, kFor, kAgainst, options);
  CHECK(circuit.size() == 5);
  const auto best = std::get<1>(at::stack(expected).flatten().topk(5));
  for (int64_t i = 0; i < 5; ++i) {
    const int64_t place = best[i].item<int64_t>();
    CHECK(circuit.contains(place / LiveModel::kWidth, place % LiveModel::kWidth));
  }
}

TEST_CASE("residual and direction: the scores are those of the definition") {
  Model model = subject().host();
  const at::Tensor delta = mean_of(kFor, neurons) - mean_of(kAgainst, neurons);
  std::vector<TokenIds> all = kFor;
  all.insert(all.end(), kAgainst.begin(), kAgainst.end());
  const at::Tensor size =
      mean_of(all, [](const LiveModel::Pass& pass) { return pass.sites[2].norm(2, 1); });
  std::vector<at::Tensor> share, along;
  const auto stream = [](const LiveModel::Pass& pass) { return pass.sites[2]; };
  const at::Tensor v = (mean_of(kFor, stream) - mean_of(kAgainst, stream))[0];
  for (int64_t l = 0; l < LiveModel::kLayers; ++l) {
    share.push_back(delta[l] * down(l).norm(2, 0) / size[l]);
    along.push_back(delta[l] * (v / v.norm()).matmul(down(l)) * (l == 0 ? 1.0 : 0.0));
  }
  CHECK(near(residual_score(model, kFor, kAgainst).score, at::stack(share)));
  const ScoredContrast found = direction_score(model, kFor, kAgainst, 0);
  CHECK(near(found.score, at::stack(along)));

  DiscoverOptions options;
  options.k = 4;
  options.ranking = Ranking::direction;
  options.direction_layer = 0;
  const Circuit circuit = discover(model, kFor, kAgainst, options);
  for (const Neuron& neuron : circuit.neurons()) CHECK(neuron.layer == 0);
  CHECK(std::stod(circuit.provenance().at("coverage")) ==
        Approx(coverage(found.score, circuit)).epsilon(1e-9));
  CHECK_THROWS_AS(direction_score(model, kFor, kAgainst, 2), IndexError);
  CHECK_THROWS_AS(direction_score(model, kFor, kAgainst, 0, at::ones(3)), ValueError);
}

TEST_CASE("difference_written: a shift of all neurons is the MLP's part of CAA") {
  Model model = subject().host();
  const at::Tensor delta = mean_of(kFor, neurons) - mean_of(kAgainst, neurons);
  std::vector<Neuron> all;
  for (int32_t j = 0; j < LiveModel::kWidth; ++j) all.push_back({1, j, delta[1][j].item<double>()});
  const Circuit layer({LiveModel::kLayers, LiveModel::kWidth}, all);
  const auto written = difference_written(model, layer);
  REQUIRE(written.size() == 1);
  const auto output = [](const LiveModel::Pass& pass) { return pass.sites[1]; };
  CHECK(near(written.at(1), (mean_of(kFor, output) - mean_of(kAgainst, output))[1]));
}

TEST_CASE("Intervention: shift and towards are what they say, row by row") {
  Model model = subject().host();
  const Circuit circuit({LiveModel::kLayers, LiveModel::kWidth}, {{0, 3, 1.5}, {1, 7, -0.5}});
  const Grid target = Grid::Constant(LiveModel::kLayers, LiveModel::kWidth, 0.25);
  const std::vector<double> strengths{0.0, 1.0, -2.0};
  std::vector<TokenIds> rows(3, kFor[0]);
  const auto edit_of = [&](double c, bool shift) {
    return [&, c, shift](Site site, int64_t layer, const at::Tensor& a) {
      if (site != Site::neuron) return a;
      at::Tensor b = a.clone();
      for (const Neuron& n : circuit.neurons()) {
        if (n.layer != layer) continue;
        at::Tensor mine = b.select(1, n.index);
        mine.copy_(shift ? mine - c * n.delta : mine + c * (0.25 - mine));
      }
      return b;
    };
  };
  for (const bool shift : {true, false}) {
    RunOptions options;
    options.intervention = shift ? Intervention::shift(circuit, strengths)
                                 : Intervention::towards(circuit, target, strengths);
    options.arm_of_prompt = {0, 1, 2};
    const auto answers = generate(model, rows, {.max_new_tokens = 6}, options);
    for (size_t i = 0; i < 3; ++i)
      CHECK(answers[i] == subject().answer(rows[i], 6, edit_of(strengths[i], shift)));
  }
  CHECK(Intervention::shift(circuit, std::vector{0.0}).is_identity());
  CHECK(Intervention::towards(circuit, target, std::vector{0.0}).is_identity());
  CHECK(Intervention::towards(circuit, target, std::vector{1.0}).digest() ==
        Intervention::mean_ablate(circuit, target).digest());
}

TEST_CASE("Gate: scores, threshold, and prompts that are left alone") {
  Model model = subject().host();
  const at::Tensor delta = mean_of(kFor, neurons) - mean_of(kAgainst, neurons);
  std::vector<Neuron> some;
  for (const auto& [layer, index] : {std::pair{0, 2}, std::pair{1, 5}, std::pair{1, 9}})
    some.push_back({layer, index, delta[layer][index].item<double>()});
  const Circuit circuit({LiveModel::kLayers, LiveModel::kWidth}, some);
  const Gate gate = Gate::fit(model, circuit, kFor, kAgainst, 0.34);
  std::vector<TokenIds> all = kFor;
  all.insert(all.end(), kAgainst.begin(), kAgainst.end());
  const std::vector<double> scores = gate.scores(model, all);
  std::vector<double> expected(all.size(), 0.0);
  for (const Neuron& n : circuit.neurons()) {
    std::vector<double> values;
    for (const TokenIds& ids : all)
      values.push_back(neurons(subject().run(ids))[n.layer][n.index].item<double>());
    double mean = 0.0, square = 0.0;
    for (const double x : values) mean += x / static_cast<double>(values.size());
    for (const double x : values)
      square += (x - mean) * (x - mean) / static_cast<double>(values.size());
    for (size_t i = 0; i < values.size(); ++i)
      expected[i] +=
          std::copysign((values[i] - mean) / std::sqrt(square), n.delta * (values[i] - mean));
  }
  for (size_t i = 0; i < all.size(); ++i) CHECK(scores[i] == Approx(expected[i]).epsilon(1e-3));
  int passed = 0;
  for (size_t i = 3; i < 6; ++i) passed += scores[i] > gate.threshold().value;
  CHECK(passed <= 1);
  CHECK(gate.threshold().false_positives == Approx(passed / 3.0));

  RunOptions options;
  options.intervention = Gate::guard(Intervention::scale(circuit, std::vector{-30.0}));
  options.arm_of_prompt = gate.arms(model, all);
  const auto gated = generate(model, all, {.max_new_tokens = 5}, options);
  const auto plain = generate(model, all, {.max_new_tokens = 5});
  for (size_t i = 0; i < all.size(); ++i)
    if (options.arm_of_prompt[i] == 0) CHECK(gated[i] == plain[i]);
  CHECK_THROWS_AS(Gate::guard(Intervention(2)), ValueError);
  CHECK_THROWS_AS(Gate::fit(model, Circuit(circuit.shape(), {}), kFor, kAgainst), ValueError);
}
