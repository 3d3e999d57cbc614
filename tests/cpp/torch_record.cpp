// The recorder, what stands on it, and the sweep, on a tiny model without a cache.
#include <ATen/ATen.h>

#include <map>

#include "catch.hpp"
#include "cna/torch/control.hpp"
#include "cna/torch/discover.hpp"
#include "cna/torch/steering_vector.hpp"
#include "cna/torch/sweep.hpp"
#include "tiny_model.hpp"

using namespace cna;

using cna::test::contains;
using cna::test::message_of;

namespace {

const std::vector<TokenIds> kPositive{{1, 2, 3}, {4, 5}, {6, 7, 8, 9}};
const std::vector<TokenIds> kNegative{{10}, {11, 12, 3}};

std::vector<TokenIds> all_prompts() {
  std::vector<TokenIds> out = kPositive;
  out.insert(out.end(), kNegative.begin(), kNegative.end());
  return out;
}

/// Keeps everything it is fed, and the order it came in.
struct Notebook {
  std::map<std::pair<int64_t, int64_t>, at::Tensor> seen;  // (prompt, layer)
  std::vector<int64_t> layers;
  int batches = 0;

  void add(int64_t layer, std::span<const int64_t> prompts, const at::Tensor& activations) {
    for (size_t i = 0; i < prompts.size(); ++i)
      seen[{prompts[i], layer}] = activations[static_cast<int64_t>(i)].clone();
    layers.push_back(layer);
  }
  void end_batch() { ++batches; }
};

static_assert(Accumulator<Notebook>);
static_assert(Accumulator<GroupedMoments<at::Tensor>>);
static_assert(Accumulator<BasicUniversalCounter<at::Tensor>>);

}  // namespace

TEST_CASE("record: one pass feeds accumulators at several sites") {
  test::TinyFile file(3);
  Model model = Model::load(file.path);
  const std::vector<TokenIds> prompts = all_prompts();
  Notebook neurons, outputs;
  GroupedMoments<at::Tensor> moments({0, 0, 0, 1, 1});
  BasicUniversalCounter<at::Tensor> universal(model.shape(), 0.1);
  int64_t polls = 0;
  RunOptions options;
  options.poll = [&] { ++polls; };
  record(model, prompts, options, cna::at<Site::neuron>(neurons),
         cna::at<Site::mlp_output>(outputs), cna::at<Site::neuron>(moments),
         cna::at<Site::neuron>(universal));
  const int64_t once = std::exchange(polls, 0);
  record(model, prompts, options, cna::at<Site::mlp_output>(outputs));
  CHECK(polls == once);  // four accumulators cost no second pass

  const at::Tensor plain = record_all(model, prompts, Site::neuron);
  const at::Tensor out = record_all(model, prompts, Site::mlp_output);
  for (int64_t p = 0; p < 5; ++p) {
    const at::Tensor reference = file.weights.run(prompts[static_cast<size_t>(p)]).first;
    CHECK(at::allclose(plain[p], reference, 1e-5, 1e-6));
    for (int64_t l = 0; l < test::kLayers; ++l) {
      CHECK(neurons.seen.at({p, l}).equal(plain[p][l]));
      CHECK(outputs.seen.at({p, l}).equal(out[p][l]));
    }
  }
  const Contrast both = contrast(model, kPositive, kNegative);
  const Moments<at::Tensor> positive = moments.together(0);
  CHECK(positive.count() == 3);
  CHECK((to_grid(positive.mean()) == both.positive.mean()).all());
  CHECK((to_grid(moments.together(1).m2()) == both.negative.m2()).all());
  CHECK(universal.hits() == count_universal(model, prompts, 0.1).hits());
  CHECK(universal.prompts() == 5);
}

TEST_CASE("record: a call from inside its own sink is an error, not a wait for ever") {
  test::TinyFile file(4);
  Model model = Model::load(file.path);
  const std::string message = message_of<Error>([&] {
    record(model, kPositive, Site::neuron, {}, [&](std::span<const int64_t>, const at::Tensor&) {
      (void)last_logits(model, kPositive);
    });
  });
  CHECK(contains(message, "inside one of its own runs"));
  CHECK_NOTHROW((void)last_logits(model, kPositive));
}

TEST_CASE("discover: the circuit is the plain mean difference's, and names its prompts") {
  test::TinyFile file(5);
  Model model = Model::load(file.path);
  const auto mean = [&](const std::vector<TokenIds>& prompts) {
    at::Tensor sum = at::zeros({test::kLayers, test::kWidth}, at::kDouble);
    for (const TokenIds& p : prompts) sum += file.weights.run(p).first.to(at::kDouble);
    return sum / static_cast<double>(prompts.size());
  };
  const at::Tensor delta = mean(kPositive) - mean(kNegative);
  const Circuit circuit = discover(model, kPositive, kNegative, {.k = 5});
  const std::vector<Neuron> wanted = top_k(to_grid(delta), 5);
  for (size_t i = 0; i < 5; ++i) {
    CHECK(circuit.neurons()[i].id() == wanted[i].id());
    CHECK(circuit.neurons()[i].delta == Approx(wanted[i].delta).epsilon(1e-5));
  }
  CHECK(circuit.provenance().at("prompt_hash") == json_string(prompt_hash(kPositive, kNegative)));
}

TEST_CASE("steering_vectors: the mean difference of the site, added at the layers asked for") {
  test::TinyFile file(6);
  Model model = Model::load(file.path);
  const SteeringVectors found = steering_vectors(model, kPositive, kNegative, Site::mlp_output);
  const at::Tensor acts = record_all(model, all_prompts(), Site::mlp_output).to(at::kDouble);
  CHECK(at::allclose(found.vectors, acts.narrow(0, 0, 3).mean(0) - acts.narrow(0, 3, 2).mean(0), 0,
                     1e-12));
  RunOptions steered;
  steered.intervention = found.add(std::vector<int64_t>{1}, std::vector{2.0});
  const at::Tensor moved = record_all(model, kPositive, Site::mlp_output, steered);
  CHECK(at::allclose(moved.select(1, 1) - acts.narrow(0, 0, 3).select(1, 1).to(at::kFloat),
                     (2.0 * found.vectors[1]).to(at::kFloat).expand({3, -1}), 1e-4, 1e-5));
  CHECK(moved.select(1, 0).equal(acts.narrow(0, 0, 3).select(1, 0).to(at::kFloat)));
  CHECK_THROWS_AS((void)found.add(std::vector<int64_t>{2}, std::vector{1.0}), IndexError);
}

TEST_CASE("random_like: as many per layer, none of the circuit's, the same for a seed") {
  const Circuit circuit({3, 40}, {{0, 1, 1.0}, {0, 7, 1.0}, {2, 3, -1.0}});
  const Circuit drawn = random_like(circuit, 5);
  CHECK(drawn.layer_counts() == circuit.layer_counts());
  CHECK((drawn & circuit).empty());
  CHECK(drawn == random_like(circuit, 5));
  CHECK_FALSE(drawn == random_like(circuit, 6));
  // More than half of a layer: its own neurons fill up, and the number stays.
  std::vector<Neuron> most;
  for (int32_t i = 0; i < 30; ++i) most.push_back({1, i, 1.0});
  const Circuit crowded({3, 40}, most);
  CHECK(random_like(crowded, 0).layer_counts() == crowded.layer_counts());
  CHECK((random_like(crowded, 0) & crowded).size() == 20);
}

TEST_CASE("sweep: every arm answers every prompt as it does alone") {
  test::TinyFile file(7);
  Model model = Model::load(file.path);
  const std::vector<TokenIds> prompts = all_prompts();
  const Circuit circuit = discover(model, kPositive, kNegative, {.k = 6});
  const std::vector<Intervention> arms{Intervention(1), Intervention::ablate(circuit),
                                       Intervention::scale(circuit, std::vector{-2.0})};
  const GenerateOptions generation{.max_new_tokens = 4, .ignore_eos = true};
  RunOptions options;
  options.batch_rows = 4;  // arms and prompts mix in a batch
  const Sweep all = sweep(model, arms, prompts, generation, options);
  RunOptions concat;
  concat.intervention = Intervention::concat(arms);
  const Divergence along = divergence(model, prompts, all.answers[0], concat);
  CHECK(all.along_reference.kl.equal(along.kl));
  CHECK(all.along_reference.log_likelihood.equal(along.log_likelihood));
  for (size_t arm = 0; arm < arms.size(); ++arm) {
    RunOptions alone;
    alone.intervention = arms[arm];
    CHECK(all.answers[arm] == generate(model, prompts, generation, alone));
  }
  const std::vector<SweepJob> beyond{{3, 0}};
  CHECK_THROWS_AS(answer_jobs(model, arms, prompts, beyond, generation, {},
                              [](std::span<const SweepJob>, std::span<const TokenIds>) {}),
                  IndexError);
}

TEST_CASE("answer_jobs: over all its parts, streams, callbacks and errors count the jobs") {
  test::TinyFile file(7);
  Model model = Model::load(file.path);
  const std::vector<TokenIds> prompts = all_prompts();
  const Circuit circuit = discover(model, kPositive, kNegative, {.k = 6});
  std::vector<Intervention> arms{Intervention(1), Intervention::ablate(circuit)};
  std::vector<SweepJob> jobs;
  for (int64_t i = 0; i < 20; ++i) jobs.push_back({i % 2, i % 5});
  RunOptions options;
  options.batch_rows = 1;  // a part has eight jobs
  std::map<int64_t, TokenIds> written, finished;
  GenerateOptions generation{.max_new_tokens = 4, .temperature = 1.5, .seed = 3};
  generation.first_prompt = 100;
  generation.on_token = [&](int64_t n, int64_t token) { written[n].push_back(token); };
  generation.on_answer = [&](int64_t n, const TokenIds& answer) { finished[n] = answer; };
  size_t kept = 0;
  const auto keep = [&](std::span<const SweepJob>, std::span<const TokenIds> answers) {
    kept += answers.size();
  };
  answer_jobs(model, arms, prompts, jobs, generation, options, keep);
  CHECK(kept == jobs.size());
  for (size_t i = 0; i < jobs.size(); ++i) {
    const auto number = 100 + static_cast<int64_t>(i);
    RunOptions alone;
    alone.intervention = arms[static_cast<size_t>(jobs[i].arm)];
    const std::vector<TokenIds> asked{prompts[static_cast<size_t>(jobs[i].prompt)]};
    const GenerateOptions its{
        .max_new_tokens = 4, .temperature = 1.5, .seed = 3, .first_prompt = number};
    const TokenIds expected = generate(model, asked, its, alone)[0];
    CHECK(finished[number] == expected);
    CHECK(written[number] == expected);
  }
  // An overflow behind the first part is that of its arm and prompt.
  arms.push_back(Intervention::scale(circuit, std::vector{1e38}));
  jobs[13] = {2, 3};
  kept = 0;
  try {
    answer_jobs(model, arms, prompts, jobs, {.max_new_tokens = 4}, options, keep);
    FAIL("expected an overflow");
  } catch (const NonFinite& error) {
    CHECK(contains(error.what(),
                   "sweep: expected finite logits that tell tokens apart, got an "
                   "overflow of arm 2 in prompt 3 at answer token 0; use a smaller"));
    CHECK(error.prompt() == 3);
    CHECK(error.token() == 0);
  }
  CHECK(kept >= 8);
}
