// Everything on a second device: the CPU's numbers, nothing left on another one, and budgets for
// kernels, copies and waits.
#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <algorithm>
#include <functional>
#include <set>
#include <thread>

#include "catch.hpp"
#include "cna/torch/contribution.hpp"
#include "cna/torch/discover.hpp"
#include "cna/torch/gate.hpp"
#include "cna/torch/generate.hpp"
#include "cna/torch/ranking.hpp"
#include "cna/torch/recorder.hpp"
#include "cna/torch/score.hpp"
#include "cna/torch/steering_vector.hpp"
#include "cna/torch/sweep.hpp"
#include "end_token.hpp"
#include "fake_device.hpp"
#include "live_model.hpp"
#include "tiny_model.hpp"

using namespace cna;
using namespace cna::test;

namespace {

const c10::Device kCpu(c10::kCPU);

// Ids that both models know; all share a prefix.
const std::vector<TokenIds> kPrompts = {{17, 18, 3, 1, 4, 1, 5},
                                        {17, 18, 9},
                                        {17, 18, 2, 6, 5, 3, 5, 8, 0},
                                        {17, 18, 7, 10},
                                        {17, 18, 13, 2, 3, 8, 4, 6},
                                        {17, 18, 2, 12},
                                        {17, 18, 16, 4, 3}};
const std::vector<TokenIds> kContinuations = {{5, 9, 2}, {6},    {7, 7}, {1, 8, 2, 8},
                                              {10},      {4, 5}, {9}};

/// One thread: tensors of this size wait longer for threads than they compute.
const bool kOneThread = (at::set_num_threads(1), true);

/// The tiny TorchScript model; `constants` gives its graph a constant tensor and a constant device,
/// as a traced one has.
struct ScriptFile {
  explicit ScriptFile(bool constants) : weights(10) {
    namespace jit = ::torch::jit;
    jit::Module module = tiny_module(weights);
    if (constants) {
      const auto forward = module.get_method("forward").graph();
      jit::WithInsertPoint point(forward->block()->return_node());
      jit::Value* out = forward->outputs()[0];
      jit::Value* bias = forward->insertConstant(at::linspace(-1.0, 1.0, kVocab));
      jit::Value* device = forward->insertConstant(c10::IValue(kCpu));
      jit::Value* size = forward->insertConstant(std::vector<int64_t>{kVocab});
      jit::Value* zeros =
          forward->insert(c10::aten::zeros, {size}, {jit::NamedValue("device", device)});
      jit::Value* sum = forward->insert(c10::aten::add, {bias, zeros});
      forward->eraseOutput(0);
      forward->registerOutput(forward->insert(c10::aten::add, {out, sum}));
    }
    path = std::filesystem::temp_directory_path() /
           ("cna_fake_" + std::to_string(::getpid()) + (constants ? "_constants.pt" : ".pt"));
    module.save(path.string());
  }
  ~ScriptFile() { std::filesystem::remove(path); }
  TinyWeights weights;
  std::filesystem::path path;
};

struct Fixture {
  std::string name;
  std::function<Model()> make;
};

const std::vector<Fixture>& fixtures() {
  static const ScriptFile plain(false), constants(true);
  static const LiveModel live;
  static const std::vector<Fixture> all = {
      {"TorchScript", [] { return Model::load(plain.path); }},
      {"TorchScript with constants", [] { return Model::load(constants.path); }},
      {"live, keys and values", [] { return live.host(); }},
      {"live, whole prompts", [] { return live.host(false); }}};
  return all;
}

Circuit circuit_of(GridShape shape) {
  return Circuit(shape, {{0, 3, 4.0}, {1, 7, -3.0}, {1, 10, 2.0}, {0, 11, -1.0}, {1, 0, 0.5}});
}

/// Arms that change neurons of both layers, the residual stream of one, and the MLP's output of one
/// from the prompt's last two tokens on, and logits.
Intervention arms_of(const ModelInfo& info) {
  const std::vector<double> m = {1.0, 0.0, -2.0}, c = {0.0, 1.0, -1.0};
  const int64_t vocab = info.vocab > 0 ? info.vocab : kVocab;  // a bare file does not say
  const at::Tensor vector = at::linspace(-1.0, 1.0, info.hidden, at::kDouble);
  return Intervention::scale(circuit_of(info.shape), m)
      .then(Intervention::add(Site::residual, 1, vector, c))
      .then(Intervention::add(Site::mlp_output, 0, vector.flip(0), c).from_last(2))
      .then(Intervention::bias_logits(at::linspace(-1.0, 1.0, vocab, at::kDouble), c));
}

RunOptions steered(const ModelInfo& info) {
  RunOptions run;
  run.batch_rows = 4;
  run.intervention = arms_of(info);
  for (size_t i = 0; i < kPrompts.size(); ++i)
    run.arm_of_prompt.push_back(static_cast<int64_t>(i % 3));
  return run;
}

RunOptions batches_of(int64_t rows, int64_t tokens = 0) {
  RunOptions run;
  run.batch_rows = rows;
  run.batch_tokens = tokens;
  return run;
}

/// All that can be asked of a model, steered and not.
struct Numbers {
  std::vector<at::Tensor> tensors;
  std::vector<std::vector<TokenIds>> answers;
  std::vector<NeuronId> universal, circuit;
  std::vector<int64_t> hits;
};

/// @param end  end token of the runs whose rows end
/// @param all  also scores, discovery and a sweep
Numbers numbers(Model& model, int64_t end, bool all = true) {
  Numbers out;
  const RunOptions arms = steered(model.info());
  const auto answer = [&](GenerateOptions g, const RunOptions& run) {
    g.max_new_tokens = 6;
    g.eos_ids = {end};
    out.answers.push_back(generate(model, kPrompts, g, run));
  };
  out.tensors.push_back(record_all(model, kPrompts, Site::residual, arms));
  out.tensors.push_back(last_logits(model, kPrompts));
  answer({}, arms);
  answer({.temperature = 0.9, .top_k = 7, .top_p = 0.95}, {});
  if (!all) return out;
  answer({}, {});
  for (const RunOptions& run : {RunOptions{}, arms}) {
    for (const Site site : {Site::neuron, Site::mlp_output})
      out.tensors.push_back(record_all(model, kPrompts, site, run));
    out.tensors.push_back(log_likelihood(model, kPrompts, kContinuations, run));
  }
  const Divergence along = divergence(model, kPrompts, kContinuations, arms);
  out.tensors.insert(out.tensors.end(), {along.kl, along.log_likelihood});
  std::vector<TokenIds> others = kPrompts;
  for (TokenIds& other : others) other.insert(other.begin(), 11);
  out.tensors.push_back(prompt_divergence(model, kPrompts, others, kContinuations, arms));
  const UniversalCounter counter = count_universal(model, kPrompts, 0.1);
  out.hits = counter.hits();
  out.universal = counter.universal(0.5, 5);
  const std::span<const TokenIds> prompts(kPrompts);
  DiscoverOptions options{.k = 6, .universal = out.universal};
  for (const Ranking ranking : {Ranking::mean_difference, Ranking::effect_size}) {
    options.ranking = ranking;
    const Circuit found = discover(model, prompts.first(4), prompts.subspan(4), options);
    for (const Neuron& neuron : found.neurons()) out.circuit.push_back(neuron.id());
  }
  out.tensors.push_back(steering_vectors(model, prompts.first(4), prompts.subspan(4)).vectors);
  const Intervention ablated = Intervention::ablate(circuit_of(model.shape()));
  const Sweep swept = sweep(model, std::vector{Intervention(1), ablated}, kPrompts,
                            {.max_new_tokens = 3, .eos_ids = {end}});
  for (const auto& answers : swept.answers) out.answers.push_back(answers);
  out.tensors.push_back(swept.along_reference.kl.nan_to_num(-1.0));
  return out;
}

void check_same(const Numbers& got, const Numbers& expected) {
  REQUIRE(got.tensors.size() == expected.tensors.size());
  for (size_t i = 0; i < got.tensors.size(); ++i) {
    INFO("tensor " << i);
    CHECK(got.tensors[i].is_cpu());
    CHECK(at::allclose(got.tensors[i], expected.tensors[i], 1e-4, 1e-5));
  }
  CHECK(got.answers == expected.answers);
  CHECK((got.universal == expected.universal));
  CHECK((got.circuit == expected.circuit));
  CHECK(got.hits == expected.hits);
}

/// A prompt's answers end at different steps with this token.
int64_t end_of(Model& model) {
  return end_token(generate(model, kPrompts, {.max_new_tokens = 9, .ignore_eos = true}), 3);
}

}  // namespace

TEST_CASE("fake device: it refuses what CUDA refuses, and counts") {
  const at::Tensor host = at::arange(6, at::kFloat).view({2, 3});
  const at::Tensor a = host.to(fake(0)), b = host.to(fake(1));
  CHECK(a.device() == fake(0));
  CHECK(b.device() == fake(1));
  CHECK_THROWS((void)(a + b));
  CHECK_THROWS((void)(a + host));
  CHECK_THROWS((void)a.index_select(0, at::tensor({0}, at::kLong)));
  CHECK_THROWS((void)at::empty({1}, at::TensorOptions(fake(2))));
  const at::Tensor two = at::scalar_tensor(2.0);
  CHECK((two * b).device() == fake(1));
  at::Tensor sum;
  const FakeCounts one = counted([&] { sum = b + b; });
  CHECK(one.kernels == 1);
  CHECK(one.by_name.at("aten::add") == 1);
  CHECK(one.allocations == std::array<int64_t, 2>{0, 1});
  CHECK(one.reads + one.uploads == 0);
  const FakeCounts read = counted([&] { CHECK(sum.to(at::kCPU).equal(host + host)); });
  CHECK(read.reads == 1);
  CHECK(read.bytes_read == 24);
  CHECK(counted([&] { (void)sum[1][2].item<float>(); }).reads == 1);
  CHECK(counted([&] { (void)host.to(fake(0)); }).bytes_uploaded == 24);
  CHECK(counted([&] { (void)b.to(fake(0)); }).uploads == 0);
  // In place, through views, and into results that begin empty.
  b.select(0, 1).mul_(3.0);
  CHECK(b.to(at::kCPU).select(0, 1).equal(host.select(0, 1) * 3.0));
  CHECK(at::arange(5, at::TensorOptions(fake(1)).dtype(at::kLong))
            .to(at::kCPU)
            .sum()
            .item<int64_t>() == 10);
  CHECK(b.t().contiguous().to(at::kCPU).equal(b.to(at::kCPU).t()));
}

TEST_CASE("fake device: a device without a number is the thread's current one") {
  CHECK(at::empty({1}, at::TensorOptions(c10::Device("fake"))).device() == fake(0));
  std::thread([] {
    set_current_fake(1);
    CHECK(at::empty({1}, at::TensorOptions(c10::Device("fake"))).device() == fake(1));
    CHECK(with_index(c10::Device("fake")) == fake(1));
  }).join();
  CHECK(with_index(c10::Device("fake")) == fake(0));
  CHECK(with_index(fake(1)) == fake(1));
  CHECK(with_index(c10::Device("cpu:0")) == kCpu);
}

TEST_CASE("fake device: memory is given back, and a full device says so") {
  const int64_t before = fake_bytes(1);
  {
    const at::Tensor t = at::zeros({100}, at::TensorOptions(fake(1)).dtype(at::kDouble));
    CHECK(fake_bytes(1) == before + 800);
  }
  CHECK(fake_bytes(1) == before);
  fail_fake_allocation(2);
  const at::Tensor first = at::empty({3}, at::TensorOptions(fake(0)));
  CHECK_THROWS_AS((void)at::empty({3}, at::TensorOptions(fake(0))), c10::OutOfMemoryError);
  CHECK_NOTHROW((void)at::empty({3}, at::TensorOptions(fake(0))));
}

TEST_CASE("a second device gives the CPU's numbers, there and back") {
  for (const Fixture& fixture : fixtures()) {
    INFO(fixture.name);
    Model model = fixture.make();
    const int64_t end = end_of(model);
    const Numbers expected = numbers(model, end);
    // The current device stays 0: what has no number would land there.
    model.to(fake(1));
    CHECK(model.info().device == fake(1));
    const FakeCounts counts = counted([&] { check_same(numbers(model, end), expected); });
    CHECK(counts.allocations[0] == 0);
    CHECK(counts.kernels > 1000);
    model.to(fake(0));
    CHECK(fake_bytes(1) == 0);
    CHECK(at::allclose(last_logits(model, kPrompts), expected.tensors[1], 1e-4, 1e-5));
    model.to(kCpu);
    CHECK(model.info().device == kCpu);
    CHECK(counted([&] {
            const Numbers back = numbers(model, end);
            check_same(back, expected);
            for (size_t i = 0; i < back.tensors.size(); ++i)
              CHECK(back.tensors[i].equal(expected.tensors[i]));
          }).kernels == 0);
    CHECK(fake_bytes(0) == 0);
  }
}

TEST_CASE("a second device gives the CPU's rankings, shifts and gates") {
  Model model = LiveModel(9).host();
  const std::span<const TokenIds> prompts(kPrompts);
  const auto positive = prompts.first(4), negative = prompts.subspan(4);
  const auto found = [&] {
    std::vector<at::Tensor> out;
    std::vector<Neuron> chosen;
    for (const Ranking ranking : kRankings) {
      DiscoverOptions options{.k = 5, .ranking = ranking};
      const ScoredContrast scored = score_neurons(model, positive, negative, options);
      CHECK(scored.score.device() == model.info().device);
      out.push_back(scored.score.cpu());
      const Circuit circuit = discover(model, positive, negative, options);
      for (const Neuron& n : circuit.neurons())
        out.push_back(at::tensor({int64_t{n.layer}, int64_t{n.index}}));
      for (const auto& [layer, vector] : difference_written(model, circuit))
        out.push_back(vector.cpu());
      const Gate gate = Gate::fit(model, circuit, positive, negative, 0.3);
      out.push_back(at::tensor(gate.scores(model, prompts)));
      RunOptions run;
      run.intervention = Gate::guard(Intervention::shift(circuit, std::vector{2.0}));
      run.arm_of_prompt = gate.arms(model, prompts);
      out.push_back(last_logits(model, prompts, run));
    }
    return out;
  };
  const std::vector<at::Tensor> expected = found();
  model.to(fake(1));
  std::vector<at::Tensor> got;
  CHECK(counted([&] { got = found(); }).allocations[0] == 0);
  REQUIRE(got.size() == expected.size());
  for (size_t i = 0; i < got.size(); ++i) {
    INFO("tensor " << i);
    CHECK(at::allclose(got[i], expected[i], 1e-4, 1e-5));
  }
}

TEST_CASE("a model moved by a worker thread stays on that thread's device, for every thread") {
  for (const Fixture& fixture : fixtures()) {
    INFO(fixture.name);
    Model model = fixture.make();
    const int64_t end = end_of(model);
    const Numbers expected = numbers(model, end, false);
    std::thread([&] {
      set_current_fake(1);
      model.to(c10::Device("fake"));
    }).join();
    CHECK(model.info().device == fake(1));
    CHECK(counted([&] { check_same(numbers(model, end, false), expected); }).allocations[0] == 0);
    // And the other way round: moved here, used by a thread whose current device is another.
    model.to(c10::Device("fake"));
    CHECK(model.info().device == fake(0));
    Numbers got;
    const FakeCounts counts = counted([&] {
      std::thread([&] {
        set_current_fake(1);
        got = numbers(model, end, false);
      }).join();
    });
    check_same(got, expected);
    CHECK(counts.allocations[1] == 0);
  }
}

TEST_CASE("two models on two devices, each in a thread of its own, never meet") {
  Model first = fixtures()[0].make(), second = fixtures()[2].make();
  Model* models[] = {&first, &second};
  at::Tensor expected[2];
  for (int i = 0; i < 2; ++i) {
    models[i]->to(fake(static_cast<c10::DeviceIndex>(i)));
    expected[i] = record_all(*models[i], kPrompts, Site::neuron);
  }
  bool same[] = {true, true};
  const auto work = [&](int i) {
    set_current_fake(static_cast<c10::DeviceIndex>(1 - i));  // the other one's
    for (int round = 0; round < 5; ++round)
      same[i] = same[i] && record_all(*models[i], kPrompts, Site::neuron).equal(expected[i]);
  };
  std::thread one(work, 0), two(work, 1);
  one.join();
  two.join();
  CHECK(same[0]);
  CHECK(same[1]);
}

TEST_CASE("to: a move that fails leaves the model where it was, whole") {
  for (const Fixture& fixture : fixtures()) {
    INFO(fixture.name);
    Model model = fixture.make();
    const at::Tensor expected = last_logits(model, kPrompts);
    for (const c10::Device from : {kCpu, fake(0)}) {
      model.to(from);
      const at::Tensor before = last_logits(model, kPrompts);
      CHECK(at::allclose(before, expected, 1e-4, 1e-5));
      int64_t failures = 0;
      for (;; ++failures) {
        fail_fake_allocation(failures + 1);
        std::string message;
        try {
          model.to(fake(1));
        } catch (const std::exception& error) {
          message = error.what();
        }
        fail_fake_allocation(0);
        if (message.empty()) break;
        INFO("allocation " << failures + 1 << ": " << message);
        CHECK(contains(message, "out of memory"));
        CHECK(model.info().device == from);
        CHECK(fake_bytes(1) == 0);
        CHECK(last_logits(model, kPrompts).equal(before));
      }
      CHECK(failures > 6);
      CHECK(model.info().device == fake(1));
      CHECK(at::allclose(last_logits(model, kPrompts), expected, 1e-4, 1e-5));
    }
  }
  Model script = fixtures()[1].make();
  fail_fake_allocation(3);
  CHECK(contains(message_of<OutOfMemory>([&] { script.to(fake(1)); }), "stays on 'cpu'"));
}

TEST_CASE("a device that is full in the middle of a run is an OutOfMemory, and leaves no trace") {
  for (const Fixture& fixture : {fixtures()[1], fixtures()[2]}) {
    INFO(fixture.name);
    Model model = fixture.make();
    model.to(fake(1));
    const at::Tensor before = last_logits(model, kPrompts);
    const RunOptions run = steered(model.info());
    const std::vector<std::function<void()>> calls = {
        [&] { (void)record_all(model, kPrompts, Site::residual, run); },
        [&] { (void)generate(model, kPrompts, {.max_new_tokens = 3, .eos_ids = {5}}, run); },
        [&] { (void)log_likelihood(model, kPrompts, kContinuations, run); }};
    for (const auto& call : calls) {
      const int64_t all = counted(call).allocations[1];
      for (int64_t n = 1; n <= all; n += 1 + all / 12) {
        fail_fake_allocation(n);
        const std::string message = message_of<Error>(call);
        fail_fake_allocation(0);
        INFO("allocation " << n << " of " << all << ": " << message);
        CHECK(contains(message, "out of memory"));
        CHECK_FALSE(contains(message, "threw another type"));
        CHECK(last_logits(model, kPrompts).equal(before));
      }
    }
  }
}

namespace {

/// What one further decoding step costs: that of a long run less that of a short one, per step.
FakeCounts per_step(Model& model, GenerateOptions options, const RunOptions& run) {
  constexpr int64_t kShort = 4, kLong = 12;
  options.ignore_eos = true;
  FakeCounts counts[2];
  for (int i = 0; i < 2; ++i) {
    options.max_new_tokens = i == 0 ? kShort : kLong;
    counts[i] = counted([&] { (void)generate(model, kPrompts, options, run); });
  }
  FakeCounts out = counts[1] - counts[0];
  for (int64_t* count :
       {&out.kernels, &out.reads, &out.uploads, &out.bytes_read, &out.bytes_uploaded}) {
    CHECK(*count % (kLong - kShort) == 0);
    *count /= kLong - kShort;
  }
  return out;
}

}  // namespace

TEST_CASE("budget: a decoding step waits once, uploads nothing, and starts few kernels") {
  Model model = fixtures()[2].make();
  model.to(fake(1));
  const auto rows = static_cast<int64_t>(kPrompts.size());
  const FakeCounts greedy = per_step(model, {}, {});
  CHECK(greedy.reads <= 1);  // the tokens; none a layer
  CHECK(greedy.bytes_read <= 2 * 8 * rows);
  CHECK(greedy.uploads == 0);
  CAPTURE(greedy.kernels);
  CHECK(greedy.kernels <= 15 + 45 * LiveModel::kLayers);
  const FakeCounts sampled = per_step(model, {.temperature = 0.9, .top_p = 0.9}, {});
  CHECK(sampled.reads <= 1);
  CHECK(sampled.uploads <= 1);  // what each row draws
  CHECK(sampled.bytes_uploaded <= 8 * rows);
  CHECK(sampled.kernels <= greedy.kernels + 20);
  RunOptions run = steered(model.info());
  run.batch_rows = 64;
  const FakeCounts arms = per_step(model, {}, run);
  CHECK(arms.reads <= 1);
  CHECK(arms.uploads == 0);
  CHECK(arms.kernels <= greedy.kernels + 5);  // two products and three sums
}

TEST_CASE("budget: rows that end upload their places, not the edits") {
  for (const Fixture& fixture : {fixtures()[0], fixtures()[2]}) {
    INFO(fixture.name);
    Model model = fixture.make();
    RunOptions run = steered(model.info());
    run.batch_rows = 64;
    const auto whole = generate(model, kPrompts, {.max_new_tokens = 9, .ignore_eos = true}, run);
    const int64_t end = end_token(whole, 3);
    model.to(fake(1));
    FakeCounts counts[2];
    std::vector<TokenIds> answers[2];
    for (const bool ends : {false, true}) {
      GenerateOptions options{.max_new_tokens = 9, .ignore_eos = true};
      if (ends) options = {.max_new_tokens = 9, .eos_ids = {end}};
      counts[ends] = counted([&] { answers[ends] = generate(model, kPrompts, options, run); });
    }
    int64_t ended = 0;
    for (const TokenIds& answer : answers[1]) ended += answer.size() < 9;
    REQUIRE(ended >= 2);
    CHECK(answers[0] == whole);
    const auto rows = static_cast<int64_t>(kPrompts.size());
    const FakeCounts more = counts[1] - counts[0];
    CHECK(more.uploads <= ended);
    CHECK(more.bytes_uploaded <= ended * rows * 8);
    CHECK(more.reads <= 0);
  }
}

TEST_CASE("budget: edits go to the device once in a run, whatever the batches") {
  Model model = fixtures()[2].make();
  model.to(fake(1));
  const RunOptions plain = batches_of(1);
  RunOptions arms = steered(model.info());
  arms.batch_rows = 1;
  // Every row is a batch of its own and follows one of three arms.
  const auto uploaded = [&](const RunOptions& run) {
    return counted([&] { (void)last_logits(model, kPrompts, run); }).bytes_uploaded;
  };
  const int64_t once = 3 * 4 * (2 * (LiveModel::kWidth + LiveModel::kHidden) + LiveModel::kVocab);
  const int64_t numbers_of_arms = 8 * 2 * 3 + 8 * static_cast<int64_t>(kPrompts.size());
  // All arms for the prefix, and each arm for batches of its own.
  CHECK(uploaded(arms) <= uploaded(plain) + 2 * once + 2 * numbers_of_arms);
}

TEST_CASE("budget: a recording waits once a batch, and moments upload no more for more layers") {
  for (const Fixture& fixture : {fixtures()[0], fixtures()[2]}) {
    INFO(fixture.name);
    Model model = fixture.make();
    model.to(fake(1));
    RunOptions run;
    run.batch_rows = 2;
    run.share_prefix = false;
    int64_t batches = 0;
    const FakeCounts streamed = counted([&] {
      record(model, kPrompts, Site::neuron, run,
             [&](std::span<const int64_t>, const at::Tensor&) { ++batches; });
    });
    REQUIRE(batches >= 4);
    CHECK(streamed.reads <= batches);
    CHECK(streamed.uploads <= 3 * batches);  // ids, mask, positions
    CHECK(counted([&] { (void)record_all(model, kPrompts, Site::neuron, run); }).reads <=
          2 * batches);
    const std::span<const TokenIds> all(kPrompts);
    const FakeCounts moments = counted(
        [&] { (void)device_contrast(model, all.first(4), all.subspan(4), run, Site::neuron); });
    CHECK(moments.reads <= batches);
    CHECK(moments.uploads <= 5 * batches);  // and the rows of either set
  }
}

TEST_CASE("budget: the universal filter leaves activations on the device") {
  for (const Fixture& fixture : {fixtures()[0], fixtures()[2]}) {
    INFO(fixture.name);
    Model model = fixture.make();
    model.to(fake(1));
    std::vector<TokenIds> prompts;
    for (int i = 0; i < 4; ++i) prompts.insert(prompts.end(), kPrompts.begin(), kPrompts.end());
    const auto rows = static_cast<int64_t>(prompts.size());
    const FakeCounts counts =
        counted([&] { (void)count_universal(model, prompts, 0.1, batches_of(8)); });
    // One count per neuron, and one flag per prompt and layer: is it finite?
    CHECK(counts.bytes_read <= 8 * model.shape().size() + rows * model.shape().layers);
    CHECK(counts.reads <= rows + 1);
  }
}

TEST_CASE("budget: scores are read once a batch, not once a row") {
  Model model = fixtures()[2].make();
  model.to(fake(1));
  RunOptions run;
  run.batch_rows = 64;
  const FakeCounts few =
      counted([&] { (void)log_likelihood(model, kPrompts, kContinuations, run); });
  CHECK(few.reads <= 2);
  run.intervention = arms_of(model.info());
  CHECK(counted([&] { (void)divergence(model, kPrompts, kContinuations, run); }).reads <= 3);
}

TEST_CASE("batches: few and large where a batch costs much, small where it does not") {
  std::vector<TokenIds> prompts;
  for (int64_t i = 0; i < 12; ++i) prompts.emplace_back(i < 6 ? 3 : 40, 1 + i);
  const auto batches = [&](Model& model, const RunOptions& run) {
    int64_t count = 0;
    record(model, prompts, Site::neuron, run,
           [&](std::span<const int64_t>, const at::Tensor&) { ++count; });
    return count;
  };
  Model model = fixtures()[2].make();
  CHECK(batches(model, {}) == 2);  // long ones apart from short ones
  model.to(fake(1));
  CHECK(batches(model, {}) == 1);
  CHECK(batches(model, batches_of(5)) == 3);
  CHECK(batches(model, batches_of(64, 40)) >= 7);
}
