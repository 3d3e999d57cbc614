// Steering from the last n tokens of a prompt on, and numbers that overflow: against LiveModel's
// reference, which sees whole texts and knows no batch, prefix, padding or cache.
#include <ATen/ATen.h>

#include <cmath>
#include <limits>

#include "catch.hpp"
#include "cna/error.hpp"
#include "cna/torch/generate.hpp"
#include "cna/torch/recorder.hpp"
#include "cna/torch/score.hpp"
#include "live_model.hpp"

namespace torch_positions {  // compiled beside other files of tests

using namespace cna;
using test::contains;
using test::LiveModel;
using test::message_of;
using test::weights;

namespace {

const std::vector<TokenIds> kPrompts = {
    {17, 18, 19, 3, 1, 4, 1, 5}, {17, 18, 19, 9}, {17, 18, 19, 2, 6, 5, 3}, {17, 18, 19, 7, 9}};
const std::vector<TokenIds> kContinuations = {{5, 9, 2}, {6}, {7, 7}, {1, 8, 2, 8}};
const Circuit& kCircuit = test::kFourNeurons;

at::Tensor vector() { return at::linspace(-1.0, 1.0, LiveModel::kHidden, at::kDouble); }

/// A vector everywhere, then the circuit's neurons times -2 and the vector again from the last
/// `last` prompt tokens on, in this order.
Intervention steering(int64_t last) {
  const auto everywhere = Intervention::add(Site::residual, 0, vector(), std::vector{1.5});
  const auto neurons = Intervention::scale(kCircuit, std::vector{-2.0});
  const auto late = Intervention::add(Site::residual, 0, vector().flip(0), std::vector{-2.0});
  const auto narrow = neurons.then(late);
  return everywhere.then(last > 0 ? narrow.from_last(last) : narrow);
}

/// The same for the reference, for a prompt of `end` tokens.
LiveModel::Edit by_hand(int64_t last, size_t end) {
  return [last, end](Site site, int64_t layer, const at::Tensor& a) {
    at::Tensor b = a.clone();
    const int64_t from = last > 0 ? std::max<int64_t>(static_cast<int64_t>(end) - last, 0) : 0;
    at::Tensor late = b.narrow(0, from, b.size(0) - from);
    if (site == Site::residual && layer == 0) {
      b += 1.5 * vector();
      late += -2.0 * vector().flip(0);
    }
    if (site == Site::neuron)
      for (const Neuron& n : kCircuit.neurons())
        if (n.layer == layer) late.select(1, n.index).mul_(-2.0);
    return b;
  };
}

std::vector<RunOptions> ways(int64_t last) {
  std::vector<RunOptions> out;
  for (const int64_t rows : {1, 3, 64}) {
    for (const bool share : {false, true}) {
      out.emplace_back();
      out.back().batch_rows = rows;
      out.back().share_prefix = share;
      out.back().intervention = steering(last);
    }
  }
  return out;
}

bool close(const at::Tensor& got, const at::Tensor& expected) {
  return at::allclose(got.to(at::kDouble), expected, 1e-4, 1e-4);
}

at::Tensor scores_by_hand(size_t i, int64_t last) {
  TokenIds text = kPrompts[i];
  text.insert(text.end(), kContinuations[i].begin(), kContinuations[i].end());
  const at::Tensor logits = weights().run(text, by_hand(last, kPrompts[i].size())).logits;
  return logits.log_softmax(1).narrow(0, static_cast<int64_t>(kPrompts[i].size()) - 1,
                                      static_cast<int64_t>(kContinuations[i].size()));
}

const double kInfinity = std::numeric_limits<double>::infinity();

}  // namespace

TEST_CASE("from_last: each number of tokens gives other logits, so that a mix-up shows") {
  for (const int64_t last : {1, 2, 4})
    CHECK_FALSE(close(weights().run(kPrompts[0], by_hand(last, 8)).logits[-1],
                      weights().run(kPrompts[0], by_hand(last - 1, 8)).logits[-1]));
}

TEST_CASE("from_last: answers, logits and recordings are those of the reference") {
  for (const bool cached : {true, false}) {
    Model model = weights().host(cached);
    for (const int64_t last : {0, 1, 2, 6, 100}) {
      std::vector<TokenIds> answers;
      std::vector<at::Tensor> logits, recorded;
      for (const TokenIds& prompt : kPrompts) {
        answers.push_back(weights().answer(prompt, 5, by_hand(last, prompt.size())));
        const auto pass = weights().run(prompt, by_hand(last, prompt.size()));
        logits.push_back(pass.logits[-1]);
        recorded.push_back(pass.sites[0]);
      }
      for (const RunOptions& run : ways(last)) {
        CHECK(generate(model, kPrompts, {.max_new_tokens = 5}, run) == answers);
        CHECK(close(last_logits(model, kPrompts, run), at::stack(logits)));
        CHECK(close(record_all(model, kPrompts, Site::neuron, run), at::stack(recorded)));
      }
    }
  }
}

TEST_CASE("from_last: arms of one batch keep their own places") {
  Model model = weights().host();
  RunOptions run;
  run.intervention = Intervention::concat({steering(1), Intervention(1), steering(0), steering(3)});
  run.arm_of_prompt = {0, 1, 2, 3};
  std::vector<TokenIds> expected;
  const std::vector<int64_t> last = {1, 0, 0, 3};
  for (size_t i = 0; i < kPrompts.size(); ++i)
    expected.push_back(
        i == 1 ? weights().answer(kPrompts[i], 5)
               : weights().answer(kPrompts[i], 5, by_hand(last[i], kPrompts[i].size())));
  for (const bool share : {true, false}) {
    run.share_prefix = share;
    CHECK(generate(model, kPrompts, {.max_new_tokens = 5}, run) == expected);
  }
}

TEST_CASE("from_last: scores count from the end of the prompt, not of the text") {
  Model model = weights().host();
  for (const int64_t last : {0, 1, 2, 6}) {
    std::vector<double> sums, kls;
    for (size_t i = 0; i < kPrompts.size(); ++i) {
      const at::Tensor mine = scores_by_hand(i, last);
      const TokenIds& said = kContinuations[i];
      sums.push_back(mine.gather(1, at::tensor(said, at::kLong).unsqueeze(1)).sum().item<double>());
      TokenIds text = kPrompts[i];
      text.insert(text.end(), said.begin(), said.end());
      const at::Tensor base = weights().run(text).logits.log_softmax(1).narrow(
          0, mine.size(0) ? static_cast<int64_t>(kPrompts[i].size()) - 1 : 0, mine.size(0));
      kls.push_back((base.exp() * (base - mine)).sum(1).mean().item<double>());
    }
    for (RunOptions run : ways(last)) {
      CHECK(close(log_likelihood(model, kPrompts, kContinuations, run),
                  at::tensor(sums, at::kDouble)));
      run.intervention = Intervention::concat({Intervention(1), steering(last)});
      CHECK(close(divergence(model, kPrompts, kContinuations, run).kl[1],
                  at::tensor(kls, at::kDouble)));
    }
  }
}

TEST_CASE("from_last: less than one token, and edits of unlike features, are refused") {
  CHECK(contains(message_of<ValueError>([] { (void)steering(1).from_last(0); }),
                 "from_last: expected at least"));
  const auto four = Intervention::add(Site::residual, 0, at::ones(4), std::vector{1.0});
  const auto five = Intervention::add(Site::residual, 0, at::ones(5), std::vector{1.0});
  CHECK_THROWS_AS(four.then(five), ValueError);
  CHECK_THROWS_AS(Intervention::concat({four, five}), ValueError);
}

TEST_CASE("Intervention: what overflows float32 is no strength") {
  CHECK_THROWS_AS(Intervention::scale(kCircuit, std::vector{1e300}), ValueError);
  CHECK_THROWS_AS(Intervention::add(Site::residual, 0, at::full(4, kInfinity), std::vector{1.0}),
                  ValueError);
  CHECK_THROWS_AS(Intervention::add(Site::residual, 0, at::full(4, 1e30), std::vector{1e10}),
                  ValueError);
}

TEST_CASE("generate, logits and scores: an overflow is an error that names prompt and token") {
  Model model = weights().host();
  // Finite in float32, but its square under 1 / rms is not: what comes out are equal logits.
  for (const double c : {3e38, 1e25}) {
    RunOptions run;
    run.intervention = Intervention::concat(
        {Intervention(1), Intervention::add(Site::residual, 1, vector(), std::vector{c})});
    run.arm_of_prompt = {0, 0, 1, 0};
    CHECK_THROWS_AS(generate(model, kPrompts, {.max_new_tokens = 3}, run), NonFinite);
    for (const double temperature : {0.0, 1.0})
      CHECK(contains(message_of<NonFinite>([&] {
                       (void)generate(model, kPrompts,
                                      {.max_new_tokens = 3, .temperature = temperature}, run);
                     }),
                     "in prompt 2 at answer token 0"));
    CHECK(contains(message_of<NonFinite>([&] { (void)last_logits(model, kPrompts, run); }),
                   "in prompt 2"));
    CHECK(contains(
        message_of<NonFinite>([&] { (void)log_likelihood(model, kPrompts, kContinuations, run); }),
        "in prompt 2 at answer token 0"));
    CHECK(contains(
        message_of<NonFinite>([&] { (void)divergence(model, kPrompts, kContinuations, run); }),
        "in prompt 0 at answer token 0"));
    run.arm_of_prompt = {0, 0, 0, 0};
    CHECK_NOTHROW(generate(model, kPrompts, {.max_new_tokens = 3}, run));
  }
}

TEST_CASE("generate: an overflow that begins in the answer names its token") {
  ModelInfo info;
  info.shape = {1, 4};
  info.hidden = 4;
  info.vocab = 8;
  int64_t steps = 0;
  const auto forward = [&steps](const Step& s, Taps&) {
    at::Tensor out = at::arange(8, at::kFloat).expand({s.ids.size(0), s.keep.size(0), 8}).clone();
    if (steps++ == 2) out.select(2, 3).fill_(kInfinity);
    return out;
  };
  Model model(std::make_unique<LiveHost>(info, forward, [](c10::Device) {}));
  CHECK(contains(message_of<NonFinite>([&] {
                   (void)generate(model, std::vector<TokenIds>{{1, 2}}, {.max_new_tokens = 6});
                 }),
                 "in prompt 0 at answer token 2"));
}

TEST_CASE("generate: a temperature near 0 draws the likeliest token") {
  Model model = weights().host();
  const auto greedy = generate(model, kPrompts, {.max_new_tokens = 4});
  CHECK(generate(model, kPrompts, {.max_new_tokens = 4, .temperature = 1e-300}) == greedy);
}

TEST_CASE("scores: a token without any probability is no overflow") {
  ModelInfo info;
  info.shape = {1, 4};
  info.hidden = 4;
  info.vocab = 4;
  const auto forward = [](const Step& s, Taps&) {
    at::Tensor out = at::arange(4, at::kFloat).expand({s.ids.size(0), s.keep.size(0), 4}).clone();
    out.select(2, 0).fill_(-kInfinity);
    return out;
  };
  Model model(std::make_unique<LiveHost>(info, forward, [](c10::Device) {}));
  const std::vector<TokenIds> prompts = {{1, 2}}, answer = {{3}}, masked = {{0}};
  RunOptions two;
  two.intervention = Intervention(2);
  const Divergence got = divergence(model, prompts, answer, two);
  CHECK(got.kl.equal(at::zeros({2, 1}, at::kDouble)));
  CHECK(log_likelihood(model, prompts, masked)[0].item<double>() == -kInfinity);
}

TEST_CASE("divergence: fifty arms of a large vocabulary stay within the bound of a batch") {
  ModelInfo info;
  info.shape = {1, 4};
  info.hidden = 4;
  info.vocab = 1 << 18;
  int64_t most = 0;
  const auto forward = [&](const Step& s, Taps&) {
    most = std::max(most, s.ids.size(0) * s.keep.size(0));
    return at::arange(info.vocab, at::kFloat).expand({s.ids.size(0), s.keep.size(0), -1});
  };
  info.cache.push_back({1, 1, 1});
  Model model(std::make_unique<LiveHost>(info, forward, [](c10::Device) {}));
  RunOptions run;
  run.intervention = Intervention(50);
  const std::vector<TokenIds> prompts = {{1, 2}}, answer = {TokenIds(20, 3)};
  (void)divergence(model, prompts, answer, run);
  // float32 logits, log probabilities and one temporary: 12 bytes a logit, 256 MiB in all.
  CHECK(most * info.vocab * 12 <= int64_t{256} << 20);
  CHECK(most >= 20);
}

TEST_CASE("make_batches: keys and values of a long prefix count in every row") {
  const std::vector<TokenIds> prompts(8, TokenIds(110, 1));
  BatchLimits limits;
  limits.places = 330;
  limits.room = 0;
  for (const Batch& batch : make_batches(prompts, 100, limits, c10::Device(c10::kCPU)))
    CHECK(batch.rows.size() <= 3);
  limits.room = 60;  // 170 places a row
  CHECK(make_batches(prompts, 100, limits, c10::Device(c10::kCPU)).size() == 8);
}

}  // namespace torch_positions
