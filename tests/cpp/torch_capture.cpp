// The step's contract: exports of both versions give the reference's numbers, and steps that are
// captured and replayed give those of steps that are launched, with one launch and one late read.
#include <ATen/ATen.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "catch.hpp"
#include "cna/torch/capture.hpp"
#include "cna/torch/conversation.hpp"
#include "cna/torch/generate.hpp"
#include "cna/torch/recorder.hpp"
#include "cna/torch/sweep.hpp"
#include "end_token.hpp"
#include "exported_model.hpp"
#include "fake_device.hpp"

using namespace cna;
using namespace cna::test;

namespace capture_tests {

const std::vector<TokenIds> kTexts = {
    {3, 1, 4, 1, 5}, {9}, {2, 6, 5, 3, 5, 8, 9}, {7, 9}, {30, 2, 3, 8, 4, 6}, {22, 6}, {26, 4, 3}};

std::vector<TokenIds> with_prefix(std::vector<TokenIds> prompts) {
  for (TokenIds& prompt : prompts) prompt.insert(prompt.begin(), {17, 18, 19, 20});
  return prompts;
}

const std::filesystem::path& folder(int64_t version) {
  static const ExportedFolder one(weights(), 1), two(weights(), 2);
  return version == 1 ? one.path : two.path;
}

/// A live model and an export, on the fake device and not.
struct Way {
  const char* name;
  std::function<Model(bool captured)> make;
};
const std::vector<Way> kWays = {{"live",
                                 [](bool captured) {
                                   Model model = weights().host(true, {}, captured);
                                   model.to(fake(1));
                                   return model;
                                 }},
                                {"export", [](bool captured) {
                                   HostOptions options;
                                   options.device = fake(1), options.capture = captured;
                                   return Model::load(folder(2), options);
                                 }}};

/// A live model without a limit of length that runs its steps this way, on the fake device.
Model with_step(bool captured,
                std::function<at::Tensor(LiveModel&, const Step& step, Taps& taps)> run) {
  ModelInfo info;
  info.id = "of-a-test", info.shape = {LiveModel::kLayers, LiveModel::kWidth};
  info.hidden = LiveModel::kHidden, info.vocab = LiveModel::kVocab;
  info.layouts.room = true;
  for (int64_t l = 0; l < LiveModel::kLayers; ++l)
    info.cache.push_back({LiveModel::kSharedHeads, LiveModel::kDim, LiveModel::kDim});
  auto shared = std::make_shared<LiveModel>();
  Model model(std::make_unique<LiveHost>(
      info,
      [shared, run = std::move(run)](const Step& step, Taps& taps) {
        return run(*shared, step, taps);
      },
      [shared](c10::Device device) { shared->to(device); }, LiveWeights{}, true, captured));
  model.to(fake(1));
  return model;
}

/// Prompts follow arms in turns; neurons of both layers and the residual stream of one change.
RunOptions in_turns(int64_t rows) {
  const std::vector<double> m = {1.0, 0.0, -3.0}, c = {0.0, 2.0, -1.0};
  RunOptions run;
  run.batch_rows = rows;
  run.intervention =
      Intervention::scale(kFourNeurons, m)
          .then(Intervention::add(Site::residual, 1,
                                  at::linspace(-1.0, 1.0, LiveModel::kHidden, at::kDouble), c))
          .then(Intervention::bias_logits(at::linspace(-1.0, 1.0, LiveModel::kVocab, at::kDouble),
                                          c));
  for (size_t i = 0; i < kTexts.size(); ++i)
    run.arm_of_prompt.push_back(static_cast<int64_t>(i % 3));
  return run;
}

RunOptions rows_of(int64_t rows) {
  RunOptions run;
  run.batch_rows = rows;
  return run;
}

/// One steered step costs the difference of a long run and a short one.
FakeCounts step_cost(Model& model, const RunOptions& run, double temperature) {
  FakeCounts counts[2];
  for (const int64_t i : {0, 1})
    counts[i] = counted([&] {
      const GenerateOptions options{
          .max_new_tokens = i == 0 ? 5 : 15, .temperature = temperature, .ignore_eos = true};
      (void)generate(model, kTexts, options, run);
    });
  FakeCounts out = counts[1] - counts[0];
  for (int64_t* count :
       {&out.kernels, &out.replays, &out.reads, &out.late, &out.uploads, &out.held}) {
    CHECK(*count % 10 == 0);
    *count /= 10;
  }
  return out;
}

}  // namespace capture_tests

using namespace capture_tests;

TEST_CASE("exports of both versions of the step give the reference's numbers") {
  for (const int64_t version : {1, 2}) {
    for (const bool fuse : {false, true}) {
      HostOptions options;
      options.fuse = fuse;
      Model model = Model::load(folder(version), options);
      CAPTURE(version, fuse);
      CHECK(model.info().layouts.room == (version == 2));
      for (const auto& prompts : {kTexts, with_prefix(kTexts)}) {
        std::vector<at::Tensor> logits;
        std::vector<TokenIds> answers;
        for (const TokenIds& prompt : prompts) {
          logits.push_back(weights().run(prompt).logits[-1]);
          answers.push_back(weights().answer(prompt, 6));
        }
        for (const int64_t rows : {1, 3, 64}) {
          CHECK(at::allclose(last_logits(model, prompts, rows_of(rows)).to(at::kDouble),
                             at::stack(logits), 1e-4, 1e-4));
          CHECK(generate(model, prompts, {.max_new_tokens = 6}, rows_of(rows)) == answers);
        }
      }
    }
  }
}

TEST_CASE("a step in buffers with room behind the new tokens is the step without") {
  Model model = Model::load(folder(2), HostOptions{.fuse = false});
  const auto longs = at::TensorOptions(at::kLong);
  for (const int64_t room : {0, 5}) {
    Step step{at::tensor({3, 1, 4}, longs).view({1, 3}),
              at::ones({1, 3 + room}, longs),
              at::arange(3, longs).unsqueeze(0),
              at::tensor({2}, longs),
              {},
              at::arange(3, longs)};
    for (int64_t i = 0; i < 2 * LiveModel::kLayers; ++i)
      step.cache.push_back(at::full({1, LiveModel::kSharedHeads, 3 + room, LiveModel::kDim}, 9.0));
    const at::Tensor expected = weights().run({3, 1, 4}).logits[-1];
    CHECK(at::allclose(model.host().logits(step)[0][0].to(at::kDouble), expected, 1e-4, 1e-4));
    // What lies behind is not touched.
    CHECK(step.cache[0].narrow(2, 3, room).eq(9.0).all().item<bool>());
  }
}

TEST_CASE("captured steps give the answers of launched ones") {
  for (const Way& way : kWays) {
    Model launched = way.make(false), captured = way.make(true);
    CHECK_FALSE(launched.host().captures());
    CHECK(captured.host().captures());
    const auto whole = generate(launched, kTexts, {.max_new_tokens = 12, .ignore_eos = true});
    const int64_t end = end_token(whole, 3);
    for (const auto& prompts : {kTexts, with_prefix(kTexts)}) {
      for (const GenerateOptions& options :
           {GenerateOptions{.max_new_tokens = 12, .ignore_eos = true},
            GenerateOptions{.max_new_tokens = 12, .eos_ids = {end}},
            GenerateOptions{.max_new_tokens = 12, .temperature = 0.9, .top_k = 7, .eos_ids = {end}},
            GenerateOptions{.max_new_tokens = 1}, GenerateOptions{.max_new_tokens = 2}}) {
        for (const RunOptions& run : {rows_of(64), rows_of(3), in_turns(64), in_turns(3)}) {
          INFO(way.name << ", " << options.max_new_tokens << " tokens at " << options.temperature
                        << ", " << run.batch_rows << " rows, " << run.arm_of_prompt.size());
          const auto expected = generate(launched, prompts, options, run);
          std::vector<TokenIds> got;
          const FakeCounts counts =
              counted([&] { got = generate(captured, prompts, options, run); });
          CHECK(got == expected);
          if (options.max_new_tokens != 2)  // one step of a batch is launched, for a start
            CHECK((counts.replays > 0) == (options.max_new_tokens > 2));
        }
      }
    }
  }
}

TEST_CASE("budget: a captured step is one launch, and what feeds and reads it") {
  for (const Way& way : kWays) {
    for (const double temperature : {0.0, 0.9}) {
      INFO(way.name << " at " << temperature);
      const bool drawn = temperature > 0.0;
      for (const RunOptions& run : {rows_of(64), in_turns(64)}) {
        Model launched = way.make(false), captured = way.make(true);
        const FakeCounts before = step_cost(launched, run, temperature),
                         now = step_cost(captured, run, temperature);
        CHECK(before.replays == 0);
        CHECK(now.replays == 1);
        CAPTURE(before.kernels, now.kernels);
        CHECK(now.kernels <= (drawn ? 40 : 20));  // none a layer
        CHECK(before.kernels > 2 * now.kernels);
        for (const FakeCounts& step : {before, now}) {
          CHECK(step.reads == 1);
          CHECK(step.late == 1);  // while the step behind it is under way
          CHECK(step.uploads == (drawn ? 1 : 0));
          CHECK(step.held == 0);
        }
      }
    }
  }
}

TEST_CASE("a chat on captured steps goes on as one on launched ones") {
  for (const Way& way : kWays) {
    INFO(way.name);
    Model launched = way.make(false), captured = way.make(true);
    const GenerateOptions options{.max_new_tokens = 5, .eos_ids = {31}};
    Conversation one(launched), two(captured);
    TokenIds text = {3, 1, 4};
    for (int turn = 0; turn < 3; ++turn) {
      const TokenIds answer = one.answer(text, options);
      CHECK(two.answer(text, options) == answer);
      CHECK(two.reused() == one.reused());
      text.insert(text.end(), answer.begin(), answer.end());
      text.push_back(9);
    }
    CHECK(one.reused() > 3);
  }
}

TEST_CASE("capture is refused where it cannot be") {
  const auto load = [](int64_t version, c10::Device device) {
    return [=] {
      HostOptions options;
      options.device = device, options.capture = true;
      (void)Model::load(folder(version), options);
    };
  };
  CHECK(contains(message_of<ValueError>(load(2, c10::kCPU)), "expected a device that captures"));
  CHECK(contains(message_of<ValueError>(load(1, fake(1))), "one of format_version 1"));
  // A forward that waits for a number cannot be captured; the model still runs without.
  for (const bool captured : {true, false}) {
    Model model = with_step(captured, [](LiveModel& of, const Step& step, Taps& taps) {
      (void)step.positions.max().item<int64_t>();
      return of.step(step, taps);
    });
    const auto run = [&] { (void)generate(model, kTexts, {.max_new_tokens = 6}); };
    if (captured)
      CHECK(contains(message_of<Error>(run), "expected a device that captures a step"));
    else
      CHECK_NOTHROW(run());
    CHECK_NOTHROW((void)last_logits(model, kTexts));
  }
}

TEST_CASE("a stop or a full device while a step is captured leaves no trace") {
  for (const Way& way : kWays) {
    INFO(way.name);
    Model model = way.make(true);
    const GenerateOptions options{.max_new_tokens = 8};
    const auto expected = generate(model, kTexts, options, in_turns(64));
    for (int64_t stop = 1; stop < 40; stop += 3) {
      RunOptions run = in_turns(64);
      int64_t polls = 0;
      run.poll = [&] {
        if (++polls == stop) throw Interrupted("stopped");
      };
      try {
        (void)generate(model, kTexts, options, run);
      } catch (const Interrupted&) {
      }
      CHECK(generate(model, kTexts, options, in_turns(64)) == expected);
    }
    const int64_t all =
        counted([&] { (void)generate(model, kTexts, options, in_turns(64)); }).allocations[1];
    for (int64_t n = 1; n <= all; n += 1 + all / 25) {
      fail_fake_allocation(n);
      const std::string message =
          message_of<Error>([&] { (void)generate(model, kTexts, options, in_turns(64)); });
      fail_fake_allocation(0);
      INFO("allocation " << n << " of " << all);
      CHECK(contains(message, "out of memory"));
      CHECK(generate(model, kTexts, options, in_turns(64)) == expected);
    }
  }
}

TEST_CASE("where the device is full, buckets that nobody uses make room for one") {
  Model model = kWays[0].make(true);
  const auto whole = generate(model, kTexts, {.max_new_tokens = 12, .ignore_eos = true});
  const GenerateOptions options{.max_new_tokens = 12, .eos_ids = {end_token(whole, 3)}};
  const auto expected = generate(model, kTexts, options);
  int64_t made_room = 0, refused = 0;
  for (int64_t step = 1; step <= 12; ++step) {
    for (int64_t n = 1; n <= 24; ++n) {
      RunOptions run = rows_of(64);
      int64_t steps = 0;
      run.progress = [&](int64_t, int64_t) {
        if (++steps == step) fail_fake_allocation(n);
      };
      try {
        const auto got = generate(model, kTexts, options, run);
        CHECK(got == expected);
        made_room += fail_fake_allocation(0) == 0 && steps >= step;
      } catch (const Error& error) {
        CHECK(contains(error.what(), "out of memory"));
        ++refused;
      }
      fail_fake_allocation(0);
    }
  }
  CHECK(made_room > 0);
  CHECK(refused > made_room);
}

TEST_CASE("somebody may say how work is captured on a device") {
  const Capture of_torch = capture_on(fake(0).type());
  int64_t captures = 0;
  set_capture(fake(0).type(), [&](c10::Device device, const std::function<void()>& work) {
    CHECK(device == fake(1));
    ++captures;
    return of_torch(device, work);
  });
  Model captured = kWays[0].make(true), launched = kWays[0].make(false);
  const GenerateOptions options{.max_new_tokens = 6, .ignore_eos = true};
  CHECK(generate(captured, kTexts, options) == generate(launched, kTexts, options));
  CHECK(captures == 1);
  set_capture(fake(0).type(), of_torch);
}

TEST_CASE("captures of several models come one after another") {
  const Capture of_torch = capture_on(fake(0).type());
  std::atomic<int> under_way = 0, most = 0, all = 0;
  set_capture(fake(0).type(), [&](c10::Device device, const std::function<void()>& work) {
    most = std::max<int>(most, ++under_way);
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    auto out = of_torch(device, work);
    --under_way, ++all;
    return out;
  });
  Model models[] = {kWays[1].make(true), kWays[1].make(true), kWays[1].make(true)};
  std::vector<std::vector<TokenIds>> answers(std::size(models));
  {
    std::vector<std::jthread> threads;
    for (size_t i = 0; i < std::size(models); ++i)
      threads.emplace_back([&, i] {
        answers[i] = generate(models[i], kTexts, {.max_new_tokens = 6, .ignore_eos = true});
      });
  }
  set_capture(fake(0).type(), of_torch);
  CHECK(all == 3);
  CHECK(most == 1);
  CHECK(answers[0] == answers[1]);
  CHECK(answers[0] == answers[2]);
}

TEST_CASE("captured steps keep few buckets, however long a run is") {
  const auto any_length = [](LiveModel& of, Step step, Taps& taps) {
    step.positions = step.positions.remainder(LiveModel::kPositions);
    return of.step(step, taps);
  };
  Model launched = with_step(false, any_length), captured = with_step(true, any_length);
  std::vector<TokenIds> prompts;
  for (int64_t i = 0; i < 60; ++i) prompts.emplace_back(static_cast<size_t>(3 + i % 5), 1 + i % 30);
  const GenerateOptions options{.max_new_tokens = 400, .temperature = 1.0, .eos_ids = {31}};
  const auto most_bytes = [&](Model& model, std::vector<TokenIds>& answers) {
    RunOptions run = rows_of(4);
    const int64_t before = fake_bytes(1);
    int64_t most = 0;
    run.progress = [&](int64_t, int64_t) { most = std::max(most, fake_bytes(1) - before); };
    answers = generate(model, prompts, options, run);
    return most;
  };
  std::vector<TokenIds> expected, got;
  const int64_t plain = most_bytes(launched, expected), with_buckets = most_bytes(captured, got);
  CHECK(got == expected);
  CAPTURE(plain, with_buckets);
  CHECK(with_buckets < 9 * plain);  // of 4, 2 and 1 rows, with what their kernels leave
}
