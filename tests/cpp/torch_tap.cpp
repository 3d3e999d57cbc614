#include <ATen/ATen.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <thread>

#include "catch.hpp"
#include "cna/error.hpp"
#include "cna/torch/host.hpp"
#include "cna/torch/tap.hpp"

using namespace cna;

using cna::test::contains;
using cna::test::message_of;

namespace {

/// The operator of compiled graphs, called as they call it.
void tap_in_place(at::Tensor x, int64_t slot) {
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("cna::tap_", "")
                             .typed<void(at::Tensor&, int64_t)>();
  op.call(x, slot);
}

std::shared_ptr<Taps> scaling(int64_t slot, double by) {
  auto taps = std::make_shared<Taps>(2);
  taps->set_edits({{slot, at::full({1, 1, 3}, by), {}}});
  return taps;
}

}  // namespace

TEST_CASE("tap_: without a scope a tensor stays as it is") {
  const at::Tensor x = at::ones({2, 4, 3});
  tap_in_place(x, 0);
  CHECK(x.equal(at::ones({2, 4, 3})));
}

TEST_CASE("tap_: records and edits in place for the scope's taps") {
  const auto taps = scaling(1, 0.5);
  taps->record(std::vector{Site::neuron});
  const at::Tensor x = at::arange(24, at::kFloat).reshape({2, 4, 3});
  const at::Tensor before = x.clone();
  {
    const TapScope scope(*taps);
    tap_in_place(x, 0);
    CHECK(x.equal(before));
    tap_in_place(x, 1);
  }
  CHECK(x.equal(before * 0.5));
  const auto recorded = taps->take_recorded();
  CHECK(recorded[0].equal(before.select(1, -1)));
  CHECK(recorded[1].equal(before.select(1, -1) * 0.5));
  tap_in_place(x, 1);
  CHECK(x.equal(before * 0.5));
}

TEST_CASE("tap_: low precision keeps its type and is rounded once") {
  const auto taps = scaling(0, 1.0 / 3);
  const at::Tensor x = at::full({1, 1, 3}, 7.0, at::kBFloat16);
  const TapScope scope(*taps);
  tap_in_place(x, 0);
  CHECK(x.scalar_type() == at::kBFloat16);
  CHECK(x.equal(at::full({1, 1, 3}, 7.0 / 3, at::kBFloat16)));
}

TEST_CASE("tap_: what a tap throws is kept, and the rest of the pass is left alone") {
  const auto taps = scaling(1, 0.5);
  const TapScope scope(*taps);
  tap_in_place(at::ones({4, 3}), 0);  // rows and tokens in one dimension
  REQUIRE(taps->stopped);
  CHECK(contains(message_of<Error>([&] { std::rethrow_exception(taps->stopped); }),
                 "neuron activations [rows, tokens, features] in layer 0, got 2 dimensions"));
  const at::Tensor x = at::ones({1, 1, 3});
  tap_in_place(x, 1);
  CHECK(x.equal(at::ones({1, 1, 3})));
}

TEST_CASE("Taps: a slot that the model does not have is an IndexError") {
  Taps none, two(2);
  const at::Tensor x = at::ones({1, 1, 3});
  CHECK_THROWS_AS(none.apply(x, 0), IndexError);
  CHECK_THROWS_AS(two.apply(x, -1), IndexError);
  CHECK_THROWS_AS(two.apply(x, 6), IndexError);
  CHECK(two.apply(x, 5).is_same(x));
}

TEST_CASE("TapScope: scopes nest, and threads never meet") {
  const auto outer = scaling(0, 2.0), inner = scaling(0, 3.0);
  const auto value = [](const at::Tensor& x) { return x[0][0][0].item<float>(); };
  const at::Tensor x = at::ones({1, 1, 3});
  const TapScope scope(*outer);
  {
    const TapScope nested(*inner);
    tap_in_place(x, 0);
    CHECK(value(x) == 3.0f);
  }
  tap_in_place(x, 0);
  CHECK(value(x) == 6.0f);
  const at::Tensor other = at::ones({1, 1, 3});
  std::thread([&] { tap_in_place(other, 0); }).join();
  CHECK(value(other) == 1.0f);
}

TEST_CASE("open_host: an archive that differs from its manifest is refused, whatever its format") {
  const auto folder =
      std::filesystem::temp_directory_path() / ("cna_open_host_test_" + std::to_string(::getpid()));
  std::filesystem::create_directories(folder);
  std::ofstream(folder / "model.bin") << "changed";
  for (const std::string format : {"torchscript", "aoti"}) {
    std::ofstream(folder / "manifest.json")
        << R"({"format": "cna.model", "format_version": 1, "archive": "model.bin", "sha256": "ab",
               "model_id": "m", "weights_hash": "w", "dtype": "float32", "tap_pattern": "",
               "n_layers": 2, "width": 8, "hidden_size": 4, "vocab_size": 16, "max_positions": 32,
               "cache": [[1, 4, 4], [1, 4, 4]], "eos_token_ids": [], "made_with": {"torch": "2.13.0"}, "device": "cpu",
               "cpu_capability": "NONE", "neuron_sites": ["a", "b"], "archive_format": ")"
        << format << "\"}";
    CHECK(contains(message_of<Error>([&] { (void)open_host(folder); }), "SHA-256 differs"));
  }
  // Unverified, the compiled one is refused for its processor or its version.
  CHECK(contains(message_of<Error>([&] { (void)open_host(folder, {.verify = false}); }),
                 "export it again"));
  std::filesystem::remove_all(folder);
}
