// Steering of the logits, and the divergence of other prompts, against LiveModel's reference.
#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "catch.hpp"
#include "cna/error.hpp"
#include "cna/torch/generate.hpp"
#include "cna/torch/score.hpp"
#include "live_model.hpp"

namespace torch_baselines {  // compiled beside other files of tests

using namespace cna;
using test::LiveModel;

namespace {

const std::vector<TokenIds> kAsked = {{3, 1, 4, 1, 5}, {9}, {2, 6, 5, 3, 5, 8, 9}, {7, 9}, {30, 2}};
const std::vector<TokenIds> kSaid = {{5, 9, 2}, {6}, {7, 7}, {1, 8, 2, 8}, {10}};
const std::vector<double> kStrengths = {0.0, 1.5, -2.0};

const LiveModel& weights() {
  static const LiveModel model(3);
  return model;
}

at::Tensor bias() { return at::linspace(-3.0, 3.0, LiveModel::kVocab, at::kDouble).cos() * 4.0; }

at::Tensor logits_by_hand(const TokenIds& ids, double c) {
  return weights().run(ids).logits + c * bias();
}

TokenIds answer_by_hand(TokenIds prompt, int64_t most, double c) {
  TokenIds out;
  for (int64_t n = 0; n < most; ++n) {
    out.push_back(logits_by_hand(prompt, c)[-1].argmax().item<int64_t>());
    prompt.push_back(out.back());
  }
  return out;
}

at::Tensor scores_by_hand(TokenIds prompt, const TokenIds& said, double c) {
  const auto start = static_cast<int64_t>(prompt.size()) - 1;
  prompt.insert(prompt.end(), said.begin(), said.end());
  return logits_by_hand(prompt, c)
      .narrow(0, start, static_cast<int64_t>(said.size()))
      .log_softmax(-1);
}

std::vector<RunOptions> ways() {
  std::vector<RunOptions> out;
  for (const int64_t rows : {1, 2, 64}) {
    for (const bool share : {false, true}) {
      RunOptions run;
      run.batch_rows = rows;
      run.share_prefix = share;
      out.push_back(run);
    }
  }
  return out;
}

std::vector<TokenIds> behind(const TokenIds& prefix) {
  std::vector<TokenIds> out = kAsked;
  for (TokenIds& prompt : out) prompt.insert(prompt.begin(), prefix.begin(), prefix.end());
  return out;
}

}  // namespace

TEST_CASE("bias_logits: answers are those of biased logits, row by row") {
  for (const bool cached : {true, false}) {
    Model model = weights().host(cached);
    for (RunOptions run : ways()) {
      run.intervention = Intervention::bias_logits(bias(), kStrengths);
      std::vector<TokenIds> expected;
      for (size_t i = 0; i < kAsked.size(); ++i) {
        run.arm_of_prompt.push_back(static_cast<int64_t>(i % kStrengths.size()));
        expected.push_back(answer_by_hand(kAsked[i], 6, kStrengths[i % kStrengths.size()]));
      }
      CHECK(generate(model, kAsked, {.max_new_tokens = 6}, run) == expected);
      const at::Tensor last = last_logits(model, kAsked, run);
      for (size_t i = 0; i < kAsked.size(); ++i)
        CHECK(at::allclose(last[static_cast<int64_t>(i)].to(at::kDouble),
                           logits_by_hand(kAsked[i], kStrengths[i % kStrengths.size()])[-1], 1e-4,
                           1e-4));
    }
  }
}

TEST_CASE("bias_logits: rows that end leave the others with their own bias") {
  Model model = weights().host(true, {answer_by_hand(kAsked[1], 2, kStrengths[1])[1]});
  const int64_t end = model.info().eos_ids[0];
  RunOptions run;
  run.intervention = Intervention::bias_logits(bias(), kStrengths);
  std::vector<TokenIds> expected;
  for (size_t i = 0; i < kAsked.size(); ++i) {
    run.arm_of_prompt.push_back(static_cast<int64_t>(i % kStrengths.size()));
    TokenIds answer = answer_by_hand(kAsked[i], 6, kStrengths[i % kStrengths.size()]);
    answer.erase(std::find(answer.begin(), answer.end(), end), answer.end());
    expected.push_back(answer);
  }
  CHECK(generate(model, kAsked, {.max_new_tokens = 6}, run) == expected);
}

TEST_CASE("bias_logits: scores see it, and it composes with other steering") {
  Model model = weights().host();
  const Circuit circuit({LiveModel::kLayers, LiveModel::kWidth}, {{0, 3, 1.0}, {1, 7, 1.0}});
  for (RunOptions run : ways()) {
    run.intervention = Intervention::bias_logits(bias(), kStrengths);
    const Divergence got = divergence(model, kAsked, kSaid, run);
    for (size_t i = 0; i < kAsked.size(); ++i) {
      const at::Tensor base = scores_by_hand(kAsked[i], kSaid[i], 0.0);
      for (size_t arm = 0; arm < kStrengths.size(); ++arm) {
        const at::Tensor mine = scores_by_hand(kAsked[i], kSaid[i], kStrengths[arm]);
        const double kl = (base.exp() * (base - mine)).sum(-1).mean().item<double>();
        CHECK(std::abs(got.kl[static_cast<int64_t>(arm)][static_cast<int64_t>(i)].item<double>() -
                       kl) < 1e-4);
      }
    }
  }
  const auto steer = Intervention::scale(circuit, std::vector{0.0});
  const auto both = steer.then(Intervention::bias_logits(bias(), std::vector{1.5}));
  RunOptions neurons, all;
  neurons.intervention = steer, all.intervention = both;
  const at::Tensor apart = last_logits(model, kAsked, neurons).to(at::kDouble) + 1.5 * bias();
  CHECK(at::allclose(last_logits(model, kAsked, all).to(at::kDouble), apart, 1e-4, 1e-4));
  const auto twice = both.then(Intervention::bias_logits(bias(), std::vector{-1.5}));
  all.intervention = twice;
  CHECK(at::allclose(last_logits(model, kAsked, all), last_logits(model, kAsked, neurons), 1e-4,
                     1e-4));
  CHECK(Intervention::bias_logits(bias(), std::vector{0.0}).is_identity());
}

TEST_CASE("bias_logits: a bias of another vocabulary is refused") {
  Model model = weights().host();
  RunOptions run;
  run.intervention = Intervention::bias_logits(at::ones(5), std::vector{1.0});
  CHECK_THROWS_AS((void)generate(model, kAsked, {.max_new_tokens = 1}, run), ValueError);
}

TEST_CASE("prompt_divergence: equals the reference, in every batch") {
  const std::vector<TokenIds> other = behind({17, 18, 19});
  for (const bool cached : {true, false}) {
    Model model = weights().host(cached);
    std::vector<double> expected;
    for (size_t i = 0; i < kAsked.size(); ++i) {
      const at::Tensor base = scores_by_hand(kAsked[i], kSaid[i], 0.0);
      const at::Tensor mine = scores_by_hand(other[i], kSaid[i], 1.5);
      expected.push_back((base.exp() * (base - mine)).sum(-1).mean().item<double>());
    }
    for (RunOptions run : ways()) {
      run.intervention = Intervention::bias_logits(bias(), std::vector{0.0, 1.5});
      const at::Tensor got = prompt_divergence(model, kAsked, other, kSaid, run);
      CHECK(at::allclose(got, at::tensor(expected, at::kDouble), 1e-3, 1e-4));
      run.intervention = Intervention(1);
      CHECK(prompt_divergence(model, kAsked, kAsked, kSaid, run).abs().max().item<double>() < 1e-6);
    }
  }
  Model model = weights().host();
  CHECK_THROWS_AS((void)prompt_divergence(model, kAsked, {}, kSaid), ValueError);
}

}  // namespace torch_baselines
