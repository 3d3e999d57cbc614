// Everything that runs on keys and values, against a model without any: prefixes, padding, arms,
// rows that end, scores and recordings of LiveModel's host are those of LiveModel's reference.
#include <ATen/ATen.h>

#include <algorithm>
#include <map>
#include <memory>
#include <numeric>
#include <set>
#include <stdexcept>

#include "catch.hpp"
#include "cna/torch/conversation.hpp"
#include "cna/torch/discover.hpp"
#include "cna/torch/generate.hpp"
#include "cna/torch/recorder.hpp"
#include "cna/torch/score.hpp"
#include "end_token.hpp"
#include "live_model.hpp"

using namespace cna;
using test::end_token;
using test::LiveModel;
using test::weights;

namespace {

const std::vector<TokenIds> kPrompts = {
    {3, 1, 4, 1, 5}, {9}, {2, 6, 5, 3, 5, 8, 9}, {7, 9}, {30, 2, 3, 8, 4, 6}, {22, 6}, {26, 4, 3}};
const std::vector<TokenIds> kContinuations = {{5, 9, 2}, {6},    {7, 7}, {1, 8, 2, 8},
                                              {10},      {4, 5}, {9}};

const Circuit kCircuit({LiveModel::kLayers, LiveModel::kWidth},
                       {{0, 3, 4.0}, {1, 7, -3.0}, {1, 20, 2.0}, {0, 11, -1.0}, {1, 0, 0.5}});

/// One way of steering: the circuit's neurons times m, and c times a vector at two other sites.
struct Arm {
  double m, c;
};
const std::vector<Arm> kArms = {{1.0, 0.0}, {0.0, 0.0}, {-3.0, 0.0}, {1.0, 2.0}, {2.0, -3.0}};

at::Tensor vector() { return at::linspace(-1.0, 1.0, LiveModel::kHidden, at::kDouble); }

Intervention steering(const std::vector<Arm>& arms) {
  std::vector<double> m, c;
  for (const Arm& arm : arms) m.push_back(arm.m), c.push_back(arm.c);
  return Intervention::scale(kCircuit, m)
      .then(Intervention::add(Site::mlp_output, 0, vector(), c))
      .then(Intervention::add(Site::residual, 1, vector().flip(0), c));
}

/// The same for the reference, written out.
LiveModel::Edit by_hand(Arm arm) {
  return [arm](Site site, int64_t layer, const at::Tensor& a) {
    at::Tensor b = a.clone();
    if (site == Site::neuron) {
      for (const Neuron& neuron : kCircuit.neurons()) {
        if (neuron.layer == layer) b.select(1, neuron.index).mul_(arm.m);
      }
    }
    if (site == Site::mlp_output && layer == 0) b += arm.c * vector();
    if (site == Site::residual && layer == 1) b += arm.c * vector().flip(0);
    return b;
  };
}

std::vector<TokenIds> behind(const TokenIds& prefix, std::vector<TokenIds> prompts) {
  for (TokenIds& prompt : prompts) prompt.insert(prompt.begin(), prefix.begin(), prefix.end());
  return prompts;
}

std::vector<TokenIds> alone(const TokenIds& prompt) { return {prompt}; }

/// Prompts without and with a common prefix.
std::vector<std::vector<TokenIds>> both() {
  return {kPrompts, behind({17, 18, 19, 20, 21}, kPrompts)};
}

/// Arms of prompts: 0, 1, .., 0, 1, ..; empty for one arm, as a caller leaves it.
std::vector<int64_t> taking_turns(size_t prompts, size_t arms) {
  std::vector<int64_t> out;
  for (size_t i = 0; arms > 1 && i < prompts; ++i) out.push_back(static_cast<int64_t>(i % arms));
  return out;
}

/// Every way of running the same prompts: batches, limits and the prefix change no number.
std::vector<RunOptions> ways(const std::vector<Arm>& arms, size_t prompts) {
  std::vector<RunOptions> out;
  for (const int64_t rows : {1, 3, 64}) {
    for (const bool share : {false, true}) {
      RunOptions run;
      run.batch_rows = rows;
      run.share_prefix = share;
      run.intervention = steering(arms);
      run.arm_of_prompt = taking_turns(prompts, arms.size());
      out.push_back(run);
    }
  }
  out.push_back(out.back());
  out.back().batch_tokens = 9;
  return out;
}

bool close(const at::Tensor& got, const at::Tensor& expected) {
  return got.sizes() == expected.sizes() && at::allclose(got.to(at::kDouble), expected, 1e-4, 1e-4);
}

/// Greedy answers, one prompt after the other; prompt i follows arm i, in turns.
std::vector<TokenIds> answers_by_hand(const std::vector<TokenIds>& prompts, int64_t most,
                                      const std::vector<Arm>& arms = {{1.0, 0.0}}) {
  std::vector<TokenIds> out;
  for (size_t i = 0; i < prompts.size(); ++i)
    out.push_back(weights().answer(prompts[i], most, by_hand(arms[i % arms.size()])));
  return out;
}

/// The answers up to their first `end`.
std::vector<TokenIds> cut_at(int64_t end, std::vector<TokenIds> answers) {
  for (TokenIds& answer : answers)
    answer.erase(std::find(answer.begin(), answer.end(), end), answer.end());
  return answers;
}

/// Log probabilities [tokens of the continuation, vocab] behind a prompt.
at::Tensor scores_by_hand(const TokenIds& prompt, const TokenIds& continuation, Arm arm) {
  TokenIds text = prompt;
  text.insert(text.end(), continuation.begin(), continuation.end());
  const at::Tensor logits = weights().run(text, by_hand(arm)).logits;
  const at::Tensor mine = logits.narrow(0, static_cast<int64_t>(prompt.size()) - 1,
                                        static_cast<int64_t>(continuation.size()));
  return mine - mine.exp().sum(1, true).log();
}

double likelihood_by_hand(const at::Tensor& scores, const TokenIds& continuation) {
  double sum = 0.0;
  for (size_t t = 0; t < continuation.size(); ++t)
    sum += scores[static_cast<int64_t>(t)][continuation[t]].item<double>();
  return sum;
}

}  // namespace

TEST_CASE("LiveModel: places, order and earlier tokens matter, so that a mix-up shows") {
  const auto last = [](const TokenIds& ids) { return weights().run(ids).logits[-1]; };
  const at::Tensor logits = last({3, 1, 4});
  CHECK_FALSE(at::allclose(logits, last({1, 3, 4}), 0.0, 0.05));
  CHECK_FALSE(at::allclose(logits, last({1, 4}), 0.0, 0.05));
  CHECK_FALSE(at::allclose(logits, last({3, 3, 1, 4}), 0.0, 0.05));
  const TokenIds& prompt = kPrompts[0];
  for (size_t i = 1; i < kArms.size(); ++i) {
    for (size_t j = 0; j < i; ++j)
      CHECK_FALSE(at::allclose(weights().run(prompt, by_hand(kArms[i])).logits[-1],
                               weights().run(prompt, by_hand(kArms[j])).logits[-1], 0.0, 0.05));
  }
}

TEST_CASE("generate: a padded ragged batch answers as each prompt alone") {
  Model model = weights().host();
  for (const auto& prompts : both()) {
    const auto expected = answers_by_hand(prompts, 6);
    REQUIRE(std::set(expected.begin(), expected.end()).size() > 4);
    CHECK(generate(model, prompts, {.max_new_tokens = 6}) == expected);
    for (size_t i = 0; i < prompts.size(); ++i)
      CHECK(generate(model, alone(prompts[i]), {.max_new_tokens = 6})[0] == expected[i]);
  }
}

TEST_CASE("generate: a shared prefix changes no answer, whatever the batches are") {
  Model model = weights().host();
  for (const auto& prompts : both()) {
    const auto expected = answers_by_hand(prompts, 5);
    for (const RunOptions& run : ways({{1.0, 0.0}}, prompts.size()))
      CHECK(generate(model, prompts, {.max_new_tokens = 5}, run) == expected);
  }
}

TEST_CASE("generate: a model without a cache gives the same answers") {
  Model model = weights().host(false);
  const auto expected = answers_by_hand(kPrompts, 4, kArms);
  for (const RunOptions& run : ways(kArms, kPrompts.size()))
    CHECK(generate(model, kPrompts, {.max_new_tokens = 4}, run) == expected);
}

TEST_CASE("generate: rows follow their own arms as if they ran one by one") {
  Model model = weights().host();
  for (const auto& prompts : both()) {
    const auto expected = answers_by_hand(prompts, 5, kArms);
    REQUIRE(expected != answers_by_hand(prompts, 5));
    for (const RunOptions& run : ways(kArms, prompts.size()))
      CHECK(generate(model, prompts, {.max_new_tokens = 5}, run) == expected);
    for (size_t i = 0; i < prompts.size(); ++i) {
      RunOptions run;
      run.intervention = steering({kArms[i % kArms.size()]});
      CHECK(generate(model, alone(prompts[i]), {.max_new_tokens = 5}, run)[0] == expected[i]);
    }
  }
}

TEST_CASE("generate: rows that end at different steps leave the others as they are") {
  for (const auto& arms : {std::vector<Arm>{{1.0, 0.0}}, kArms}) {
    for (const auto& prompts : both()) {
      const auto whole = answers_by_hand(prompts, 12, arms);
      const int64_t end = end_token(whole);
      const auto expected = cut_at(end, whole);
      Model model = weights().host(true, {end});
      for (const RunOptions& run : ways(arms, prompts.size()))
        CHECK(generate(model, prompts, {.max_new_tokens = 12}, run) == expected);
      const RunOptions run = ways(arms, prompts.size()).back();
      CHECK(generate(model, prompts, {.max_new_tokens = 12, .ignore_eos = true}, run) == whole);
      const int64_t other = whole[0][1];
      CHECK(generate(model, prompts, {.max_new_tokens = 12, .eos_ids = {other}}, run) ==
            cut_at(other, whole));
    }
  }
}

TEST_CASE("generate: waiting rows take the places of rows that ended") {
  std::vector<TokenIds> prompts;
  for (int64_t i = 0; i < 16; ++i) prompts.push_back({17, 18, i, (5 * i + 3) % 16});
  const auto whole = answers_by_hand(prompts, 12);
  const int64_t end = end_token(whole);
  const auto expected = cut_at(end, whole);
  RunOptions run;
  run.batch_rows = 8;
  int64_t passes = 0, apart = 0;
  run.progress = [&](int64_t, int64_t) { ++passes; };
  for (size_t first = 0; first < prompts.size(); first += 8) {
    size_t longest = 0;
    for (size_t i = first; i < first + 8; ++i)
      longest = std::max(longest, std::min<size_t>(expected[i].size() + 1, 12));
    apart += static_cast<int64_t>(longest);
  }
  std::map<int64_t, TokenIds> told;
  GenerateOptions generation{.max_new_tokens = 12};
  generation.on_answer = [&](int64_t row, const TokenIds& answer) {
    CHECK(told.emplace(row, answer).second);
  };
  Model model = weights().host(true, {end});
  CHECK(generate(model, prompts, generation, run) == expected);
  REQUIRE(told.size() == prompts.size());
  for (const auto& [row, answer] : told) CHECK(answer == expected[static_cast<size_t>(row)]);
  // Prompts are read two at a time, while six other rows wait: so many passes more at most.
  CHECK(passes - 1 < apart + 8);
  told.clear(), passes = 0;
  generation.ignore_eos = true;
  CHECK(generate(model, prompts, generation, run) == whole);
  CHECK(passes - 1 == 2 * 12);  // all rows end together
}

TEST_CASE("generate: what is drawn for a prompt depends on the seed and its number alone") {
  Model model = weights().host();
  const auto prompts =
      behind({17, 18}, std::vector<TokenIds>(9, {3, 1, 4}));  // only numbers differ
  for (const GenerateOptions& drawing : {GenerateOptions{.temperature = 1.0, .seed = 5},
                                         GenerateOptions{.temperature = 1.5, .top_k = 6, .seed = 6},
                                         GenerateOptions{.temperature = 0.8, .top_p = 0.7}}) {
    GenerateOptions options = drawing;
    options.max_new_tokens = 10;
    RunOptions one_by_one;
    one_by_one.batch_rows = 1;
    const auto expected = generate(model, prompts, options, one_by_one);
    CHECK(std::set(expected.begin(), expected.end()).size() > 6);
    for (const RunOptions& run : ways({{1.0, 0.0}}, prompts.size()))
      CHECK(generate(model, prompts, options, run) == expected);
    // Rows that end take their own streams along when they move.
    const int64_t end = end_token(expected);
    options.eos_ids = {end};
    for (const RunOptions& run : ways({{1.0, 0.0}}, prompts.size()))
      CHECK(generate(model, prompts, options, run) == cut_at(end, expected));
    options.seed += 1;
    options.eos_ids.clear();
    CHECK(generate(model, prompts, options) != expected);
  }
}

TEST_CASE("generate: top_k and top_p draw from their sets, and from all of them") {
  Model model = weights().host();
  const std::vector<TokenIds> prompts(300, kPrompts[2]);
  const at::Tensor p = weights().run(kPrompts[2]).logits[-1].softmax(0);
  const at::Tensor order = p.argsort(0, true);
  const auto drawn = [&](const GenerateOptions& options) {
    std::set<int64_t> tokens;
    for (const TokenIds& answer : generate(model, prompts, options)) tokens.insert(answer.at(0));
    return tokens;
  };
  std::set<int64_t> first;
  for (int64_t i = 0; i < 3; ++i) first.insert(order[i].item<int64_t>());
  CHECK(drawn({.max_new_tokens = 1, .temperature = 1.0, .top_k = 3}) == first);
  // The smallest set whose mass reaches top_p: its last token carries it over.
  double mass = 0.0;
  first.clear();
  for (int64_t i = 0; mass < 0.5; ++i) {
    first.insert(order[i].item<int64_t>());
    mass += p[order[i]].item<double>();
  }
  REQUIRE(first.size() > 1);
  CHECK(drawn({.max_new_tokens = 1, .temperature = 1.0, .top_p = 0.5}) == first);
  CHECK(drawn({.max_new_tokens = 1, .temperature = 1e-4}) == std::set{order[0].item<int64_t>()});
}

TEST_CASE("Conversation: every turn answers as its whole prompt alone") {
  for (const bool cached : {true, false}) {
    Model model = weights().host(cached);
    Conversation conversation(model);
    TokenIds prompt{3, 1, 4};
    for (const TokenIds& more : {TokenIds{}, TokenIds{9, 2}, TokenIds{6}, TokenIds{5, 5, 8}}) {
      const auto held = static_cast<int64_t>(conversation.tokens().size());
      prompt.insert(prompt.end(), more.begin(), more.end());
      const TokenIds answer = conversation.answer(prompt, {.max_new_tokens = 4});
      CHECK(answer == weights().answer(prompt, 4, by_hand(kArms[0])));
      CHECK(conversation.reused() == (cached ? held : 0));
      CHECK(conversation.tokens().size() == (cached ? prompt.size() + 3 : 0));
      prompt.insert(prompt.end(), answer.begin(), answer.end());
    }
    // A prompt that parts from the turns early, and one that says nothing new.
    const TokenIds other{3, 1, 9, 9};
    CHECK(conversation.answer(other, {.max_new_tokens = 3}) ==
          weights().answer(other, 3, by_hand(kArms[0])));
    CHECK(conversation.reused() == (cached ? 2 : 0));
    CHECK(conversation.answer(other, {.max_new_tokens = 3}) ==
          weights().answer(other, 3, by_hand(kArms[0])));
    CHECK(conversation.reused() == (cached ? 3 : 0));
    conversation.clear();
    CHECK(conversation.tokens().empty());
  }
}

TEST_CASE("Conversation: a turn that fails forgets the turns, not the model") {
  Model model = weights().host();
  Conversation conversation(model);
  const TokenIds prompt{3, 1, 4};
  (void)conversation.answer(prompt, {.max_new_tokens = 2});
  CHECK_THROWS_AS(conversation.answer({}, {}), ValueError);
  CHECK_THROWS_AS(conversation.answer(prompt, {.max_new_tokens = 0}), ValueError);
  CHECK(conversation.answer(prompt, {.max_new_tokens = 3}) ==
        weights().answer(prompt, 3, by_hand(kArms[0])));
  Model whole = weights().host(false);
  Conversation other(whole);
  RunOptions run;
  run.intervention = steering({{0.0, 0.0}}).from_last(1);
  CHECK_THROWS_AS(other.answer(prompt, {.max_new_tokens = 2}, run), ValueError);
}

TEST_CASE("last_logits: equals the reference, for every arm and batch") {
  Model model = weights().host();
  for (const auto& arms : {std::vector<Arm>{{1.0, 0.0}}, kArms}) {
    for (const auto& prompts : both()) {
      std::vector<at::Tensor> expected;
      for (size_t i = 0; i < prompts.size(); ++i)
        expected.push_back(weights().run(prompts[i], by_hand(arms[i % arms.size()])).logits[-1]);
      for (const RunOptions& run : ways(arms, prompts.size()))
        CHECK(close(last_logits(model, prompts, run), at::stack(expected)));
    }
  }
}

TEST_CASE("log_likelihood: equals the reference, for every arm and batch") {
  Model model = weights().host();
  // Continuations of one prompt, too: they begin alike, so the prefix must end before them.
  const std::vector<TokenIds> question(kContinuations.size(), {17, 18, 19});
  auto sets = both();
  sets.push_back(question);
  for (const auto& prompts : sets) {
    const auto continuations =
        prompts == question ? behind({8, 8}, kContinuations) : kContinuations;
    std::vector<double> expected;
    for (size_t i = 0; i < prompts.size(); ++i)
      expected.push_back(likelihood_by_hand(
          scores_by_hand(prompts[i], continuations[i], kArms[i % kArms.size()]), continuations[i]));
    for (const RunOptions& run : ways(kArms, prompts.size()))
      CHECK(close(log_likelihood(model, prompts, continuations, run),
                  at::tensor(expected, at::kDouble)));
  }
}

TEST_CASE("divergence: equals the reference, with more arms than rows in a batch") {
  Model model = weights().host(), plain = weights().host(false);
  for (const auto& prompts : both()) {
    const auto n = static_cast<int64_t>(prompts.size());
    const auto arms = static_cast<int64_t>(kArms.size());
    at::Tensor kl = at::zeros({arms, n}, at::kDouble), sum = at::zeros({arms, n}, at::kDouble);
    for (int64_t i = 0; i < n; ++i) {
      const auto at = static_cast<size_t>(i);
      const at::Tensor base = scores_by_hand(prompts[at], kContinuations[at], kArms[0]);
      for (int64_t arm = 0; arm < arms; ++arm) {
        const at::Tensor mine =
            scores_by_hand(prompts[at], kContinuations[at], kArms[static_cast<size_t>(arm)]);
        kl[arm][i] = (base.exp() * (base - mine)).sum(1).mean();
        sum[arm][i] = likelihood_by_hand(mine, kContinuations[at]);
      }
    }
    REQUIRE(kl.narrow(0, 1, arms - 1).min().item<double>() > 1e-3);
    for (const RunOptions& run : ways(kArms, prompts.size())) {
      for (Model* each : {&model, &plain}) {
        const Divergence got = divergence(*each, prompts, kContinuations, run);
        CHECK(close(got.kl, kl));
        CHECK(close(got.log_likelihood, sum));
        CHECK(got.kl[0].abs().max().item<double>() < 1e-6);
      }
    }
  }
}

/// By the layer that first has rows of them: 0, 1 (by a neuron, by the stream), none; not in order.
std::vector<Intervention> joining_arms() {
  const Circuit late({LiveModel::kLayers, LiveModel::kWidth}, {{1, 7, -3.0}, {1, 0, 0.5}});
  return {Intervention(1),
          Intervention::bias_logits(at::linspace(-2, 2, LiveModel::kVocab, at::kDouble),
                                    std::vector{1.0}),
          Intervention::scale(late, std::vector{-2.0}),
          Intervention::scale(kCircuit, std::vector{0.0}),
          Intervention::add(Site::residual, 0, vector(), std::vector{2.0}),
          Intervention::add(Site::residual, 1, vector(), std::vector{-1.0}),
          Intervention::scale(late, std::vector{3.0}).from_last(1)};
}

TEST_CASE("divergence: arms that join behind the first layer compute what they do alone") {
  const std::vector<Intervention> arms = joining_arms();
  RunOptions run;
  run.intervention = Intervention::concat(arms);
  CHECK(run.intervention.first_layers(2) == std::vector<int64_t>{2, 2, 1, 0, 1, 2, 1});
  Model model = weights().host();
  {
    const Model::Turn turn = model.take_turn("test");
    REQUIRE(model.host().widens());
  }
  for (const auto& prompts : both()) {
    for (const int64_t rows : {2, 5, 64}) {
      run.batch_rows = rows;
      const Divergence all = divergence(model, prompts, kContinuations, run);
      for (size_t arm = 1; arm < arms.size(); ++arm) {
        RunOptions alone;
        alone.batch_rows = 1;  // one row a batch: nothing is shared
        alone.intervention = Intervention::concat({arms[0], arms[arm]});
        const Divergence one = divergence(model, prompts, kContinuations, alone);
        CHECK(close(all.kl[static_cast<int64_t>(arm)], one.kl[1]));
        CHECK(close(all.log_likelihood[static_cast<int64_t>(arm)], one.log_likelihood[1]));
      }
    }
  }
}

TEST_CASE("log_likelihood: choices that share their question score as each alone") {
  const std::vector<Intervention> arms = joining_arms();
  Model model = weights().host();
  for (const auto& questions : both()) {
    std::vector<TokenIds> prompts, choices;
    for (const TokenIds& question : questions)
      for (const TokenIds& choice : kContinuations)
        prompts.push_back(question), choices.push_back(choice);
    const auto n = static_cast<int64_t>(prompts.size());
    RunOptions run;
    run.intervention = Intervention::concat(arms);
    std::vector<TokenIds> all_prompts, all_choices;
    for (size_t arm = 0; arm < arms.size(); ++arm) {
      all_prompts.insert(all_prompts.end(), prompts.begin(), prompts.end());
      all_choices.insert(all_choices.end(), choices.begin(), choices.end());
      run.arm_of_prompt.insert(run.arm_of_prompt.end(), prompts.size(), static_cast<int64_t>(arm));
    }
    for (const int64_t rows : {2, 5, 64}) {
      run.batch_rows = rows;
      const at::Tensor all = log_likelihood(model, all_prompts, all_choices, run);
      for (size_t arm = 0; arm < arms.size(); ++arm) {
        RunOptions alone;
        alone.batch_rows = 1;  // one row a batch: nothing is shared
        alone.intervention = arms[arm];
        CHECK(close(all.narrow(0, static_cast<int64_t>(arm) * n, n),
                    log_likelihood(model, prompts, choices, alone)));
      }
    }
  }
}

TEST_CASE("record: equals the reference at all three sites, steered or not") {
  Model model = weights().host();
  for (const auto& arms : {std::vector<Arm>{{1.0, 0.0}}, kArms}) {
    for (const auto& prompts : both()) {
      std::vector<at::Tensor> expected[kSites];
      for (size_t i = 0; i < prompts.size(); ++i) {
        const auto pass = weights().run(prompts[i], by_hand(arms[i % arms.size()]));
        for (int site = 0; site < kSites; ++site) expected[site].push_back(pass.sites[site]);
      }
      for (const RunOptions& run : ways(arms, prompts.size())) {
        for (const Site site : {Site::neuron, Site::mlp_output, Site::residual})
          CHECK(close(record_all(model, prompts, site, run),
                      at::stack(expected[static_cast<int>(site)])));
      }
    }
  }
}

TEST_CASE("contrast: means and squared deviations are those of the reference") {
  Model model = weights().host();
  for (const auto& prompts : both()) {
    std::vector<at::Tensor> a;
    for (const TokenIds& prompt : prompts) a.push_back(weights().run(prompt).sites[0]);
    const std::span<const TokenIds> all(prompts);
    for (const RunOptions& run : ways({{1.0, 0.0}}, 0)) {
      const Contrast got = contrast(model, all.first(3), all.subspan(3), run);
      const auto check = [](const Moments<Grid>& moments, const at::Tensor& of) {
        REQUIRE(moments.count() == of.size(0));
        const at::Tensor mean = of.mean(0), m2 = (of - mean).square().sum(0);
        for (int64_t layer = 0; layer < LiveModel::kLayers; ++layer) {
          for (int64_t index = 0; index < LiveModel::kWidth; ++index) {
            CHECK(moments.mean()(layer, index) ==
                  test::Approx(mean[layer][index].item<double>()).epsilon(1e-4).margin(1e-5));
            CHECK(moments.m2()(layer, index) ==
                  test::Approx(m2[layer][index].item<double>()).epsilon(1e-4).margin(1e-5));
          }
        }
      };
      const at::Tensor stacked = at::stack(a);
      check(got.positive, stacked.narrow(0, 0, 3));
      check(got.negative, stacked.narrow(0, 3, stacked.size(0) - 3));
    }
  }
}

TEST_CASE("count_universal: counts the places that a sort of each prompt's neurons puts first") {
  Model model = weights().host();
  for (const auto& prompts : both()) {
    for (const double fraction : {0.02, 0.1, 0.5}) {
      const auto top = static_cast<int64_t>(std::round(fraction * 2 * LiveModel::kWidth));
      CountGrid expected = CountGrid::Zero(LiveModel::kLayers, LiveModel::kWidth);
      for (const TokenIds& prompt : prompts) {
        const at::Tensor a = weights().run(prompt).sites[0].flatten().contiguous();
        std::vector<int64_t> places(static_cast<size_t>(a.numel()));
        std::iota(places.begin(), places.end(), int64_t{0});
        std::sort(places.begin(), places.end(), [&](int64_t i, int64_t j) {
          return std::abs(a.data_ptr<double>()[i]) > std::abs(a.data_ptr<double>()[j]);
        });
        for (int64_t i = 0; i < top; ++i) expected.data()[places[static_cast<size_t>(i)]] += 1;
      }
      for (const RunOptions& run : ways({{1.0, 0.0}}, prompts.size())) {
        const UniversalCounter counter = count_universal(model, prompts, fraction, run);
        CHECK(counter.prompts() == static_cast<int64_t>(prompts.size()));
        CHECK(counter.top() == top);
        CHECK((counter.counts() == expected).all());
      }
    }
  }
}

TEST_CASE("steering: at multiplier 1 every number is bit-identical, also beside steered rows") {
  Model model = weights().host();
  for (const auto& prompts : both()) {
    RunOptions plain, ones;
    ones.intervention = Intervention::scale(kCircuit, std::vector{1.0});
    const at::Tensor before = last_logits(model, prompts, plain);
    CHECK(last_logits(model, prompts, ones).equal(before));
    for (const Site site : {Site::neuron, Site::mlp_output, Site::residual})
      CHECK(record_all(model, prompts, site, ones).equal(record_all(model, prompts, site, plain)));
    CHECK(log_likelihood(model, prompts, kContinuations, ones)
              .equal(log_likelihood(model, prompts, kContinuations, plain)));
    // Other rows' arms; the prefix is apart, because its batch has a row for each arm.
    plain.share_prefix = false;
    RunOptions mixed = plain;
    mixed.intervention = Intervention::scale(kCircuit, std::vector{1.0, -3.0});
    mixed.arm_of_prompt = taking_turns(prompts.size(), 2);
    const at::Tensor apart = last_logits(model, prompts, plain),
                     beside = last_logits(model, prompts, mixed);
    for (size_t i = 0; i < prompts.size(); ++i) {
      const auto row = static_cast<int64_t>(i);
      CHECK(beside[row].equal(apart[row]) == (i % 2 == 0));
    }
  }
}

namespace {

struct Stop : std::runtime_error {
  using std::runtime_error::runtime_error;
};

/// Runs `call` again and again, stopped at each of its polls in turn; the model must be as before.
template <class Call>
void stop_at_every_poll(const std::vector<TokenIds>& prompts, const Call& call) {
  Model model = weights().host();
  const at::Tensor before = last_logits(model, prompts);
  RunOptions run;
  run.batch_rows = 3;
  run.intervention = steering(kArms);
  run.arm_of_prompt = taking_turns(prompts.size(), kArms.size());
  int stops = 0;
  for (bool stopped = true; stopped; ++stops) {
    run.poll = [left = std::make_shared<int>(stops)] {
      if (--*left < 0) throw Stop("stop");
    };
    stopped = false;
    try {
      call(model, run);
    } catch (const Stop&) {
      stopped = true;
    }
    if (!last_logits(model, prompts).equal(before)) FAIL("changed by a stop at poll " << stops);
  }
  CHECK(stops > 20);
}

}  // namespace

TEST_CASE("Model: a stop in the middle of a batch leaves it usable and unsteered") {
  const auto prompts = both().back();
  stop_at_every_poll(prompts, [&](Model& model, const RunOptions& run) {
    (void)generate(model, prompts, {.max_new_tokens = 3}, run);
  });
  stop_at_every_poll(prompts, [&](Model& model, const RunOptions& run) {
    (void)record_all(model, prompts, Site::residual, run);
  });
  stop_at_every_poll(prompts, [&](Model& model, const RunOptions& run) {
    (void)log_likelihood(model, prompts, kContinuations, run);
  });
  stop_at_every_poll(prompts, [&](Model& model, const RunOptions& run) {
    (void)divergence(model, prompts, kContinuations, run);
  });
}

TEST_CASE("Model: an exception of a sink leaves it usable and unsteered") {
  Model model = weights().host();
  const at::Tensor before = last_logits(model, kPrompts);
  RunOptions run;
  run.batch_rows = 2;
  run.intervention = steering({kArms[2]});
  int batches = 0;
  CHECK_THROWS_AS(record(model, kPrompts, Site::neuron, run,
                         [&](std::span<const int64_t>, const at::Tensor&) {
                           if (++batches == 2) throw Stop("full");
                         }),
                  Stop);
  CHECK(last_logits(model, kPrompts).equal(before));
}
