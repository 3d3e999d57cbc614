#include <ATen/ATen.h>
#include <unistd.h>

#include <fstream>
#include <limits>
#include <thread>

#include "catch.hpp"
#include "cna/error.hpp"
#include "cna/torch/discover.hpp"
#include "cna/torch/generate.hpp"
#include "cna/torch/graft.hpp"
#include "cna/torch/recorder.hpp"
#include "tiny_model.hpp"

using namespace cna;
using test::TinyFile;

using cna::test::contains;
using cna::test::message_of;

namespace {

const std::vector<TokenIds> kPrompts = {{1, 2, 3}, {4}, {5, 6, 7, 8}, {9, 10}, {11, 12, 13}};

}  // namespace

TEST_CASE("graft: finds each down projection of a scripted model, in order") {
  const Grafted graph = graft(test::tiny_module(test::TinyWeights(0)));
  CHECK(graph.shape.layers == test::kLayers);
  CHECK(graph.shape.width == test::kWidth);
  CHECK(graph.hidden == test::kHidden);
  CHECK(graph.residual_sites);
  CHECK(graph.neuron_sites[1] == "layer1.mlp.down_proj");
}

TEST_CASE("graft: a pattern that matches nothing lists the closest names") {
  const auto module = test::tiny_module(test::TinyWeights(0));
  CHECK(contains(message_of<std::exception>([&] { (void)graft(module, "dwn_proj"); }),
                 "mlp.down_proj"));
  CHECK_THROWS_AS((void)graft(module, "down_proj("), ValueError);
}

TEST_CASE("graft: leaves the module it was given as it is") {
  auto module = test::tiny_module(test::TinyWeights(0));
  const std::string before = module.get_method("forward").graph()->toString();
  (void)graft(module);
  CHECK(module.get_method("forward").graph()->toString() == before);
}

TEST_CASE("record: equals the plain model at the last token") {
  const TinyFile file;
  Model model = Model::load(file.path);
  const at::Tensor got = record_all(model, kPrompts, Site::neuron);
  for (size_t i = 0; i < kPrompts.size(); ++i) {
    CHECK(at::allclose(got[static_cast<int64_t>(i)], file.weights.run(kPrompts[i]).first, 1e-5,
                       1e-6));
  }
}

TEST_CASE("discover: delta and order equal a float64 reference") {
  const TinyFile file;
  Model model = Model::load(file.path);
  const std::vector<TokenIds> positive(kPrompts.begin(), kPrompts.begin() + 2),
      negative(kPrompts.begin() + 2, kPrompts.end());
  DiscoverOptions options;
  options.k = 6;
  const Circuit circuit = discover(model, positive, negative, options);
  at::Tensor delta = at::zeros({test::kLayers, test::kWidth}, at::kDouble);
  for (const auto& p : positive) delta += file.weights.run(p).first.to(at::kDouble) / 2.0;
  for (const auto& p : negative) delta -= file.weights.run(p).first.to(at::kDouble) / 3.0;
  const at::Tensor order = delta.abs().flatten().argsort(0, true);
  REQUIRE(circuit.size() == 6);
  for (int64_t i = 0; i < 6; ++i) {
    const Neuron& neuron = circuit.neurons()[static_cast<size_t>(i)];
    CHECK(neuron.layer * test::kWidth + neuron.index == order[i].item<int64_t>());
    CHECK(std::abs(neuron.delta - delta.flatten()[order[i]].item<double>()) < 1e-5);
  }
  CHECK(circuit.provenance().at("k") == "6");
}

TEST_CASE("generate: greedy tokens equal the plain model's, steered or not") {
  const TinyFile file;
  Model model = Model::load(file.path);
  const Circuit circuit({test::kLayers, test::kWidth}, {{0, 3, 1.0}, {1, 7, -2.0}});
  at::Tensor scale = at::ones({test::kLayers, test::kWidth});
  scale[0][3] = -1.0;
  scale[1][7] = -1.0;
  for (const bool steered : {false, true}) {
    RunOptions run;
    if (steered) run.intervention = Intervention::scale(circuit, std::vector{-1.0});
    const auto answers = generate(model, kPrompts, {.max_new_tokens = 5}, run);
    for (size_t i = 0; i < kPrompts.size(); ++i) {
      TokenIds text = kPrompts[i];
      for (int n = 0; n < 5; ++n)
        text.push_back(
            file.weights.run(text, steered ? scale : at::Tensor()).second.argmax().item<int64_t>());
      CHECK(answers[i] == TokenIds(text.end() - 5, text.end()));
    }
  }
}

TEST_CASE("generate: rows end at the end token, which is not part of the answer") {
  const TinyFile file;
  Model model = Model::load(file.path);
  const auto free = generate(model, kPrompts, {.max_new_tokens = 6});
  const int64_t stop = free[0][2];
  const auto ended = generate(model, kPrompts, {.max_new_tokens = 6, .eos_ids = {stop}});
  for (size_t i = 0; i < free.size(); ++i) {
    const auto at = std::find(free[i].begin(), free[i].end(), stop);
    CHECK(ended[i] == TokenIds(free[i].begin(), at));
  }
}

TEST_CASE("Model: two models on two threads never meet") {
  const TinyFile a(1), b(2);
  Model first = Model::load(a.path), second = Model::load(b.path);
  const at::Tensor alone[] = {record_all(first, kPrompts, Site::neuron),
                              record_all(second, kPrompts, Site::neuron)};
  bool same[] = {true, true};
  const auto work = [&](Model& model, int i) {
    for (int round = 0; round < 20; ++round)
      same[i] = same[i] && record_all(model, kPrompts, Site::neuron).equal(alone[i]);
  };
  std::thread one(work, std::ref(first), 0), two(work, std::ref(second), 1);
  one.join();
  two.join();
  CHECK(same[0]);
  CHECK(same[1]);
  CHECK_FALSE(alone[0].equal(alone[1]));
}

TEST_CASE("Run: an exception leaves no trace in the model") {
  const TinyFile file;
  Model model = Model::load(file.path);
  const at::Tensor before = last_logits(model, kPrompts);
  RunOptions stopping;
  const Circuit circuit({test::kLayers, test::kWidth}, {{1, 0, 1.0}});
  stopping.intervention = Intervention::ablate(circuit);
  stopping.poll = [count = 0]() mutable {
    if (++count > 4) throw Interrupted("stop");
  };
  CHECK_THROWS_AS((void)last_logits(model, kPrompts, stopping), Interrupted);
  CHECK(last_logits(model, kPrompts).equal(before));
}

TEST_CASE("Model::load: missing, empty and foreign files are refused in one line") {
  CHECK(contains(message_of<std::exception>([&] { (void)Model::load("/no/such/file.pt"); }),
                 "found nothing"));
  const auto path = std::filesystem::temp_directory_path() / "cna_empty.pt";
  {
    std::ofstream touch(path);
  }
  CHECK(contains(message_of<std::exception>([&] { (void)Model::load(path); }),
                 "expected a TorchScript archive"));
  std::filesystem::remove(path);
}

TEST_CASE("Host::to: the meta device finds no leftover constant") {
  const TinyFile file;
  Model model = Model::load(file.path);
  model.to(c10::Device(c10::kMeta));
  CHECK(dry_run(model, 2, 3, 0) == std::vector<int64_t>{2, 1, test::kVocab});
}

TEST_CASE("unpad: padding on either side is dropped, holes are refused") {
  const at::Tensor ids = at::tensor({0, 1, 2, 3, 4, 0}, at::kLong).view({2, 3});
  const at::Tensor mask = at::tensor({0, 1, 1, 1, 1, 0}, at::kLong).view({2, 3});
  CHECK(unpad(ids, mask) == std::vector<TokenIds>{{1, 2}, {3, 4}});
  const at::Tensor hole = at::tensor({1, 0, 1, 1, 1, 1}, at::kLong).view({2, 3});
  CHECK(contains(message_of<std::exception>([&] { (void)unpad(ids, hole); }), "hole in row 0"));
  CHECK(contains(message_of<std::exception>([&] { (void)unpad(ids, mask.narrow(1, 0, 2)); }),
                 "one shape"));
}

TEST_CASE("common_prefix: leaves every prompt a token of its own") {
  CHECK(common_prefix(std::vector<TokenIds>{{1, 2, 3}, {1, 2, 4}}) == 2);
  CHECK(common_prefix(std::vector<TokenIds>{{1, 2}, {1, 2}}) == 1);
  CHECK(common_prefix(std::vector<TokenIds>{{1}, {1, 2}}) == 0);
}

TEST_CASE("make_batches: the cut with an overhead is the cheapest of all cuts") {
  std::vector<TokenIds> prompts;
  for (const size_t n : {9, 9, 8, 5, 5, 4, 2, 1}) prompts.emplace_back(n, 1);
  const auto cost = [](const std::vector<Batch>& batches) {
    int64_t sum = 0;
    for (const Batch& b : batches) sum += b.ids.numel() + 3;
    return sum;
  };
  const c10::Device cpu(c10::kCPU);
  const auto batches = make_batches(prompts, 0, {4, 30, 3}, cpu);
  // Every set of cuts between the eight prompts, within the limits.
  int64_t best = std::numeric_limits<int64_t>::max();
  for (int mask = 0; mask < 128; ++mask) {
    int64_t sum = 0, from = 0;
    bool allowed = true;
    for (int64_t to = 1; to <= 8; ++to) {
      if (to < 8 && !(mask >> (to - 1) & 1)) continue;
      const int64_t longest = static_cast<int64_t>(prompts[static_cast<size_t>(from)].size());
      allowed = allowed && to - from <= 4 && (to - from) * longest <= 30;
      sum += (to - from) * longest + 3;
      from = to;
    }
    if (allowed) best = std::min(best, sum);
  }
  CHECK(cost(batches) == best);
  size_t rows = 0;
  for (const Batch& b : batches) rows += b.rows.size();
  CHECK(rows == prompts.size());
}

TEST_CASE("make_batches: padding stands in front of the prefix, whose end is computed again") {
  const std::vector<TokenIds> prompts{{1, 2, 3, 4, 5, 6, 7}, {1, 2, 3, 8, 9}, {1, 2, 3, 9}};
  const auto batches = make_batches(prompts, 3, {}, c10::Device(c10::kCPU));
  REQUIRE(batches.size() == 1);
  const auto longs = [](std::initializer_list<int64_t> values, int64_t columns) {
    return at::tensor(values, at::kLong).view({3, columns});
  };
  CHECK(batches[0].ids.equal(longs({4, 5, 6, 7, 2, 3, 8, 9, 1, 2, 3, 9}, 4)));
  CHECK(batches[0].positions.equal(longs({3, 4, 5, 6, 1, 2, 3, 4, 0, 1, 2, 3}, 4)));
  CHECK(batches[0].mask.equal(
      longs({1, 1, 1, 1, 1, 1, 1, 0, 0, 1, 1, 1, 1, 1, 0, 0, 0, 1, 1, 1, 1}, 7)));
}

TEST_CASE("make_batches: without padding only prompts of one length share a batch") {
  std::vector<TokenIds> prompts;
  for (const size_t n : {3, 5, 3, 5, 4}) prompts.emplace_back(n, 1);
  for (const int64_t overhead : {0, 48}) {
    BatchLimits limits;
    limits.overhead = overhead;
    limits.padding = false;
    std::vector<std::vector<int64_t>> rows;
    for (const Batch& b : make_batches(prompts, 0, limits, c10::Device(c10::kCPU))) {
      CHECK(b.mask.all().item<bool>());
      rows.push_back(b.rows);
    }
    CHECK(rows == std::vector<std::vector<int64_t>>{{1, 3}, {4}, {0, 2}});
  }
}

TEST_CASE("last_logits: the result is the caller's own, to change as wanted") {
  const TinyFile file;
  Model model = Model::load(file.path);
  at::Tensor logits = last_logits(model, kPrompts);
  CHECK_FALSE(logits.is_inference());
  CHECK(logits.fill_(0).sum().item<double>() == 0.0);
}

TEST_CASE("generate: a length beyond all bounds is refused") {
  const TinyFile file;
  Model model = Model::load(file.path);
  const int64_t most = std::numeric_limits<int64_t>::max();
  CHECK(contains(
      message_of<ValueError>([&] { (void)generate(model, kPrompts, {.max_new_tokens = most}); }),
      "max_new_tokens"));
}
