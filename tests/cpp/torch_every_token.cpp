// A circuit's neurons at every token, and gates and watches over them: each token is the last one
// of a shorter prompt of LiveModel's reference. Parts of a layer: what a tap of experts sees.
#include <ATen/ATen.h>

#include <array>
#include <stdexcept>

#include "catch.hpp"
#include "cna/torch/generate.hpp"
#include "cna/torch/reading.hpp"
#include "cna/torch/tap.hpp"
#include "cna/torch/token_recorder.hpp"
#include "cna/torch/watch.hpp"
#include "live_model.hpp"

namespace torch_every_token {  // compiled beside other files of tests

using namespace cna;
using test::LiveModel;
using test::weights;

namespace {

const std::vector<TokenIds> kPrompts = {{3, 1, 4, 1, 5}, {9}, {2, 6, 5, 3, 5, 8, 9}, {2, 6, 9}};
const Circuit& kCircuit = test::kFourNeurons;

/// Float64 [neurons] at the last token.
at::Tensor by_hand(const TokenIds& ids) {
  const at::Tensor all = weights().run(ids).sites[static_cast<int>(Site::neuron)];
  std::vector<at::Tensor> out;
  for (const Neuron& n : kCircuit.neurons()) out.push_back(all[n.layer][n.index]);
  return at::stack(out);
}

TokenIds begin_of(const TokenIds& ids, size_t n) {
  return {ids.begin(), ids.begin() + static_cast<std::ptrdiff_t>(n)};
}

}  // namespace

TEST_CASE("record_tokens: every token is the last one of a shorter prompt") {
  for (const bool cached : {true, false}) {
    Model model = weights().host(cached);
    RunOptions options;
    options.batch_rows = 2;
    size_t prompts = 0;
    record_tokens(model, kPrompts, kCircuit, options, [&](int64_t prompt, const at::Tensor& seen) {
      const TokenIds& ids = kPrompts[static_cast<size_t>(prompt)];
      REQUIRE(seen.sizes() == at::IntArrayRef({static_cast<int64_t>(ids.size()), 4}));
      for (size_t end = 1; end <= ids.size(); ++end)
        CHECK(at::allclose(seen[static_cast<int64_t>(end) - 1].to(at::kDouble),
                           by_hand(begin_of(ids, end)), 1e-4, 1e-5));
      ++prompts;
    });
    CHECK(prompts == kPrompts.size());
    CHECK_THROWS_AS(record_tokens(model, kPrompts, Circuit(kCircuit.shape(), {}), {}, {}),
                    ValueError);
    CHECK_THROWS_AS(record_tokens(model, kPrompts, Circuit({1, 4}, {{0, 1, 1.0}}), {}, {}),
                    ValueError);
  }
}

TEST_CASE("Watch: scores of an answer are those of prompts that end before each token") {
  Model model = weights().host();
  const Gate gate(kCircuit, {0.1, -0.2, 0.0, 0.3}, {1.0, 0.5, 2.0, 0.0}, {0.4, 1.0, 0.0});
  std::vector<std::array<int64_t, 2>> heard;
  Watch watch(gate,
              [&](int64_t prompt, int64_t token, double) { heard.push_back({prompt, token}); });
  const auto answers = generate(model, kPrompts, {.max_new_tokens = 4}, {}, &watch);
  CHECK(answers == generate(model, kPrompts, {.max_new_tokens = 4}));
  CHECK(heard.size() == 4 * kPrompts.size());
  for (size_t p = 0; p < kPrompts.size(); ++p) {
    REQUIRE(watch.scores()[p].size() == answers[p].size());
    TokenIds text = kPrompts[p];
    bool fired = false;
    for (size_t t = 0; t < answers[p].size(); ++t) {
      const double expected = gate.score_of(by_hand(text)).item<double>();
      CHECK(watch.scores()[p][t] == Approx(expected).epsilon(1e-3).margin(1e-3));
      fired = fired || watch.scores()[p][t] > 0.4;
      text.push_back(answers[p][t]);
    }
    CHECK(watch.fired()[p] == fired);
  }
  Watch stops(gate, [](int64_t, int64_t token, double) {
    if (token == 2) throw std::runtime_error("seen enough");
  });
  CHECK_THROWS_WITH(generate(model, kPrompts, {.max_new_tokens = 4}, {}, &stops), "seen enough");
  CHECK(answers == generate(model, kPrompts, {.max_new_tokens = 4}));
}

TEST_CASE("generate: on_token is told of each token of each answer") {
  Model model = weights().host();
  std::vector<TokenIds> told(kPrompts.size());
  GenerateOptions generation{.max_new_tokens = 5};
  generation.on_token = [&](int64_t prompt, int64_t token) {
    told[static_cast<size_t>(prompt)].push_back(token);
  };
  CHECK(generate(model, kPrompts, generation) == told);
}

TEST_CASE("logits_written: write vectors through the unembedding") {
  Model model = weights().host();
  const at::Tensor got = logits_written(model, kCircuit);
  for (size_t i = 0; i < kCircuit.neurons().size(); ++i) {
    const Neuron& n = kCircuit.neurons()[i];
    const at::Tensor write = weights().layers[static_cast<size_t>(n.layer)].down.select(1, n.index);
    CHECK(at::allclose(got[static_cast<int64_t>(i)], weights().unembed.matmul(write), 1e-4, 1e-5));
  }
  CHECK_THROWS_AS(logits_written(model, Circuit({1, 4}, {{0, 1, 1.0}})), ValueError);
}

TEST_CASE("Taps: parts of a layer are recorded whole, and what is idle stays 0") {
  const auto taps = std::make_shared<Taps>(1);
  const at::Tensor x = at::arange(1, 25, at::kFloat).reshape({2, 3, 4});
  taps->record(std::vector{Site::neuron});
  taps->follow({{0, {1, 5, 6}}});
  taps->set_edits({{0, {}, at::full({1, 1, 8}, 100.0)}});  // adds 100 to every neuron
  taps->begin_step(at::zeros({2, 3}, at::kLong));
  at::Tensor idle = at::zeros({2, 3, 1}, at::kBool);
  idle[1][2][0] = true;  // the second prompt's last token
  const TapShard experts{0, {}, 8, idle}, shared{4, {}, 8};
  const at::Tensor first = taps->apply(x, 0, &experts), second = taps->apply(-x, 0, &shared);
  CHECK(first.equal((x + 100).masked_fill(idle, 0)));
  CHECK(second.equal(100 - x));
  const at::Tensor whole = at::cat({first, second}, 2);
  CHECK(taps->take_recorded()[0].equal(whole.select(1, -1)));
  CHECK(taps->take_followed().at(0).equal(whole.index_select(2, at::tensor({1, 5, 6}, at::kLong))));
  // Nothing of this step is left in the next one, in which the experts do not run.
  taps->record(std::vector{Site::neuron});
  taps->begin_step(at::zeros({2, 3}, at::kLong));
  (void)taps->apply(-x, 0, &shared);
  CHECK(taps->take_recorded()[0].narrow(1, 0, 4).count_nonzero().item<int64_t>() == 0);
  CHECK(taps->take_followed().at(0).select(2, 0).count_nonzero().item<int64_t>() == 0);
}

TEST_CASE("Taps: flat activations are those of the step's rows") {
  const auto taps = std::make_shared<Taps>(1);
  const at::Tensor x = at::arange(24, at::kFloat).reshape({6, 4});
  taps->record(std::vector{Site::neuron});
  taps->begin_step(at::zeros({2, 3}, at::kLong));
  CHECK(taps->apply(x, 0).is_same(x));
  CHECK(taps->take_recorded()[0].equal(x.reshape({2, 3, 4}).select(1, -1)));
  taps->set_edits({{0, at::full({1, 1, 4}, 2.0), {}}});
  CHECK(taps->apply(x, 0).equal(x * 2));
  taps->begin_step(at::zeros({1, 3}, at::kLong));
  CHECK_THROWS_AS(taps->apply(x, 0), Error);  // of another step
}

}  // namespace torch_every_token
