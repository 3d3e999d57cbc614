#include "catch.hpp"
#include "cna/attribution.hpp"
#include "cna/circuit.hpp"
#include "cna/error.hpp"
#include "cna/moments.hpp"
#include "cna/neuron.hpp"
#include "cna/provenance.hpp"
#include "cna/statistics.hpp"
#include "cna/text_quality.hpp"
#include "cna/universal.hpp"
#include "cna/version.hpp"

#ifdef C10_API
#error "the core must not include LibTorch"
#endif

using cna::test::message_of;

TEST_CASE("version: the string spells the three macros", "[core]") {
  CHECK(cna::version ==
        fmt::format("{}.{}.{}", CNA_VERSION_MAJOR, CNA_VERSION_MINOR, CNA_VERSION_PATCH));
}

TEST_CASE("error: each helper throws its type with the formatted message", "[core]") {
  CHECK(message_of<cna::Error>([] { cna::throw_error("a {}", 1); }) == "a 1");
  CHECK(message_of<cna::ValueError>([] { cna::throw_value_error("b {}", 2); }) == "b 2");
  CHECK(message_of<cna::IndexError>([] { cna::throw_index_error("c {}", 3); }) == "c 3");
}

TEST_CASE("error: one root catches every exception of cna", "[core]") {
  CHECK_THROWS_AS(cna::throw_value_error("d"), cna::Error);
  CHECK_THROWS_AS(cna::throw_index_error("e"), cna::Error);
  CHECK_THROWS_AS(cna::throw_as<cna::FileNotFound>("f"), cna::Error);
  CHECK_THROWS_AS(cna::throw_as<cna::OutOfMemory>("g"), cna::Error);
  CHECK_THROWS_AS(throw cna::Interrupted("h"), cna::Error);
  CHECK_THROWS_AS(throw cna::Error("i"), std::runtime_error);
}

TEST_CASE("prompt_hash: the digits of SHA-256 over the ids as Python's json.dumps writes them",
          "[core]") {
  const std::vector<std::vector<int64_t>> positive{{1, 2}, {3}}, negative{{-4}, {}};
  // hashlib.sha256(b"[[[1, 2], [3]], [[-4], []]]").hexdigest()[:16]
  CHECK(cna::prompt_hash(positive, negative) == "ba2dbadc43c57281");
  CHECK(cna::prompt_hash(positive) == "f22ddcb9cf2f8676");
  CHECK(cna::prompt_hash(negative, positive) != cna::prompt_hash(positive, negative));
}

TEST_CASE("stronger: |delta| decides, then layer, then index", "[core]") {
  const cna::Neuron strong{1, 0, -2.0};
  const cna::Neuron weak{0, 0, 1.0};
  CHECK(cna::stronger(strong, weak));
  CHECK_FALSE(cna::stronger(weak, strong));
  CHECK(cna::stronger({0, 5, 1.0}, {1, 0, -1.0}));
  CHECK(cna::stronger({1, 0, -1.0}, {1, 1, 1.0}));
  CHECK_FALSE(cna::stronger(weak, weak));
}

TEST_CASE("NeuronSet: layer and index both tell neurons apart", "[core]") {
  const cna::NeuronSet set{{0, 1}, {1, 0}, {0, 1}};
  CHECK(set.size() == 2);
  CHECK(set.contains({1, 0}));
  CHECK_FALSE(set.contains({1, 1}));
}

TEST_CASE("GridShape: contains names exactly its layers and neurons", "[core]") {
  const cna::GridShape shape{3, 4};
  CHECK(shape.size() == 12);
  CHECK(shape.contains(2, 3));
  CHECK_FALSE(shape.contains(3, 0));
  CHECK_FALSE(shape.contains(0, 4));
  CHECK_FALSE(shape.contains(-1, 0));
  CHECK_FALSE(shape.contains(0, -1));
}
