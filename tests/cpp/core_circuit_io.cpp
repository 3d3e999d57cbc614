#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <csignal>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "catch.hpp"
#include "cna/circuit.hpp"
#include "random_grid.hpp"

using cna::Circuit;
using cna::circuit_from_json;
using cna::Neuron;
using cna::test::contains;
using cna::test::message_of;
using cna::test::Random;
namespace fs = std::filesystem;

namespace {

/// A folder that is gone after the test.
class Folder {
 public:
  Folder() {
    std::string pattern = (fs::temp_directory_path() / "cna-test-XXXXXX").string();
    REQUIRE(::mkdtemp(pattern.data()) != nullptr);
    path_ = pattern;
  }
  ~Folder() {
    std::error_code ignored;
    fs::remove_all(path_, ignored);
  }
  Folder(const Folder&) = delete;
  Folder& operator=(const Folder&) = delete;

  [[nodiscard]] fs::path operator/(const std::string& name) const { return path_ / name; }

  [[nodiscard]] int files() const {
    return static_cast<int>(std::distance(fs::directory_iterator(path_), {}));
  }

 private:
  fs::path path_;
};

std::string read(const fs::path& path) {
  std::ostringstream text;
  text << std::ifstream(path).rdbuf();
  return text.str();
}

void write(const fs::path& path, const std::string& text) { std::ofstream(path) << text; }

Circuit example() {
  return Circuit({30, 1536}, {{29, 7, 0.1}, {28, 1535, -2.0 / 3.0}},
                 {{"model", "\"smollm2\""}, {"prompts", "[8,8]"}}, {{3, 4}});
}

/// A circuit file whose `field` holds `value`; without the field if `value` is empty.
std::string with(const std::string& field, const std::string& value) {
  const std::vector<std::pair<std::string, std::string>> fields{{"format", "\"cna.circuit\""},
                                                                {"format_version", "1"},
                                                                {"n_layers", "3"},
                                                                {"width", "4"},
                                                                {"neurons", "[[1,2,0.5]]"},
                                                                {"universal_removed", "[]"},
                                                                {"provenance", "{}"}};
  std::string text;
  for (const auto& [name, normal] : fields) {
    const std::string& used = name == field ? value : normal;
    if (!used.empty()) text += (text.empty() ? "{\"" : ",\"") + name + "\":" + used;
  }
  return text + "}";
}

std::string message(const std::string& text) {
  return message_of<cna::ValueError>([&] { (void)circuit_from_json(text, "a.json"); });
}

}  // namespace

TEST_CASE("to_json: the text is the documented format", "[core][circuit_io]") {
  CHECK(cna::to_json(example()) ==
        "{\"format\":\"cna.circuit\",\"format_version\":1,\"n_layers\":30,\"width\":1536,"
        "\"neurons\":[[28,1535,-0.6666666666666666],[29,7,0.1]],\"universal_removed\":[[3,4]],"
        "\"provenance\":{\"model\":\"smollm2\",\"prompts\":[8,8]}}");
}

TEST_CASE("circuit_from_json: deltas of any size come back bit for bit", "[core][circuit_io]") {
  Random random(1);
  std::vector<Neuron> neurons{{0, 0, 5e-324},  {0, 1, -0.0},  {0, 2, 1.7976931348623157e308},
                              {0, 3, 1.0 / 3}, {0, 4, 1.0},   {0, 5, -123456789012345678.0},
                              {0, 6, 0.1},     {0, 7, 1e-310}};
  for (int32_t i = 0; i < 500; ++i) {
    neurons.push_back({1, i, std::ldexp(cna::test::uniform(random), static_cast<int>(i) - 250)});
  }
  const Circuit circuit({2, 600}, neurons);
  const Circuit back = circuit_from_json(cna::to_json(circuit));
  REQUIRE(back.size() == circuit.size());
  for (std::size_t i = 0; i < neurons.size(); ++i) {
    const double before = circuit.neurons()[i].delta;
    const double after = back.neurons()[i].delta;
    if (std::memcmp(&before, &after, sizeof before) != 0) FAIL("differs: " << before);
  }
  CHECK(back == circuit);
}

TEST_CASE("circuit_from_json: provenance of every JSON type comes back as it was",
          "[core][circuit_io]") {
  const cna::Provenance provenance{{"array", "[1,[2.5,null],{\"b\":1,\"a\":2}]"},
                                   {"bool", "true"},
                                   {"number", "0.001"},
                                   {"null", "null"},
                                   {"big", "9007199254740993"},
                                   {"text", "\"line\\nbreak \\\"quoted\\\" \xC3\xA9\""},
                                   {"k\xC3\xA9y \"x\"", "{}"}};
  const Circuit circuit({2, 2}, {}, provenance);
  CHECK(circuit_from_json(cna::to_json(circuit)).provenance() == provenance);
}

TEST_CASE("to_json: provenance that is not JSON is an error that names it", "[core][circuit_io]") {
  const auto fails = [](const std::string& name, const std::string& value) {
    return message_of<cna::ValueError>(
        [&] { (void)cna::to_json(Circuit({1, 1}, {}, {{name, value}})); });
  };
  CHECK(
      fails("model", "smollm2") ==
      "to_json: expected JSON text as provenance \"model\", got \"smollm2\"; write text in double "
      "quotes");
  CHECK(contains(fails("empty", ""), "provenance \"empty\""));
  CHECK(contains(fails("bytes", "\"\xff\""), "provenance \"bytes\""));
  CHECK(contains(fails("\xff", "1"), "expected JSON text as provenance"));
  CHECK(contains(fails("deep", std::string(100000, '[')), "provenance \"deep\""));
}

TEST_CASE("save_circuit: what is saved is loaded", "[core][circuit_io]") {
  const Folder folder;
  const Circuit circuit = example();
  cna::save_circuit(circuit, folder / "c.json");
  CHECK(cna::load_circuit(folder / "c.json") == circuit);
  CHECK(read(folder / "c.json") == cna::to_json(circuit) + "\n");
  const Circuit other({30, 1536}, {});
  cna::save_circuit(other, folder / "c.json");
  CHECK(cna::load_circuit(folder / "c.json") == other);
  CHECK(folder.files() == 1);
}

TEST_CASE("save_circuit: keeps the old file's permissions and follows a link",
          "[core][circuit_io]") {
  const Folder folder;
  write(folder / "real.json", "old");
  REQUIRE(::chmod((folder / "real.json").c_str(), 0640) == 0);
  fs::create_symlink("real.json", folder / "link.json");
  cna::save_circuit(example(), folder / "link.json");
  CHECK(fs::is_symlink(folder / "link.json"));
  CHECK(cna::load_circuit(folder / "real.json") == example());
  CHECK(fs::status(folder / "real.json").permissions() == static_cast<fs::perms>(0640));
}

TEST_CASE("save_circuit: a failed write leaves the old file and no other", "[core][circuit_io]") {
  const Folder folder;
  write(folder / "c.json", "old");
  std::vector<Neuron> many;
  for (int32_t i = 0; i < 5000; ++i) many.push_back({0, i, 1.0 / (i + 1)});
  const Circuit large({1, 5000}, many);
  rlimit before{};
  REQUIRE(::getrlimit(RLIMIT_FSIZE, &before) == 0);
  rlimit small = before;
  small.rlim_cur = 10000;
  auto* const handler = std::signal(SIGXFSZ, SIG_IGN);
  REQUIRE(::setrlimit(RLIMIT_FSIZE, &small) == 0);
  const std::string text =
      message_of<cna::Error>([&] { cna::save_circuit(large, folder / "c.json"); });
  ::setrlimit(RLIMIT_FSIZE, &before);
  std::signal(SIGXFSZ, handler);
  CHECK(text == "save_circuit: expected to write " + (folder / "c.json").string() +
                    ", got \"write: File too large\"; check that the folder exists, may be written "
                    "to and has room");
  CHECK(read(folder / "c.json") == "old");
  CHECK(folder.files() == 1);
}

TEST_CASE("save_circuit: a missing folder or a folder as file is an error", "[core][circuit_io]") {
  const Folder folder;
  const auto fails = [](const fs::path& path) {
    return message_of<cna::Error>([&] { cna::save_circuit(example(), path); });
  };
  CHECK(contains(fails(folder / "none/c.json"), "No such file or directory"));
  fs::create_directory(folder / "c.json");
  CHECK(contains(fails(folder / "c.json"), "replace what is not a file"));
  CHECK(contains(fails(""), "save_circuit: expected to write"));
  CHECK(folder.files() == 1);
}

TEST_CASE("load_circuit: a file that cannot be read is an error that names it",
          "[core][circuit_io]") {
  const Folder folder;
  const auto fails = [](const fs::path& path) {
    return message_of<cna::Error>([&] { (void)cna::load_circuit(path); });
  };
  CHECK(fails(folder / "none.json") == "load_circuit: expected a circuit file at " +
                                           (folder / "none.json").string() +
                                           ", got none; check the path");
  fs::create_directory(folder / "folder");
  CHECK(contains(fails(folder / "folder"), "got a folder; name the file in it"));
  if (::geteuid() != 0) {
    write(folder / "secret.json", "x");
    ::chmod((folder / "secret.json").c_str(), 0);
    CHECK(contains(fails(folder / "secret.json"), "Permission denied"));
  }
}

TEST_CASE("load_circuit: a bad file is an error that names the file", "[core][circuit_io]") {
  const Folder folder;
  const auto fails = [&](const std::string& text) {
    write(folder / "c.json", text);
    return message_of<cna::ValueError>([&] { (void)cna::load_circuit(folder / "c.json"); });
  };
  const std::string path = (folder / "c.json").string();
  CHECK(fails("") == "load_circuit: expected JSON in " + path +
                         ", got nothing: it is empty; save the circuit again");
  CHECK(contains(
      fails(with("neurons", "[[9,9,1.0]]")),
      "load_circuit: expected a usable circuit in " + path + ", got: Circuit: expected layers"));
}

TEST_CASE("circuit_from_json: a circuit cut anywhere is an error on one line",
          "[core][circuit_io]") {
  const std::string whole = cna::to_json(example());
  for (std::size_t size = 1; size < whole.size(); ++size) {
    const std::string text = message(whole.substr(0, size));
    if (!contains(text, "circuit_from_json: expected JSON in a.json, got text that breaks off") ||
        contains(text, "\n")) {
      FAIL("cut at " << size << ": " << text);
    }
  }
  CHECK(message(whole) == "(threw nothing)");
}

TEST_CASE("circuit_from_json: a changed byte never crashes", "[core][circuit_io]") {
  const std::string whole = cna::to_json(example());
  Random random(2);
  for (int trial = 0; trial < 3000; ++trial) {
    std::string text = whole;
    text[random() % text.size()] = static_cast<char>(random());
    const std::string got = message(text);
    if (got != "(threw nothing)" && (contains(got, "another type") || contains(got, "\n"))) {
      FAIL(got);
    }
  }
  SUCCEED();
}

TEST_CASE("circuit_from_json: every wrong field has its own message", "[core][circuit_io]") {
  CHECK(message(with("", "")) == "(threw nothing)");
  CHECK(message(" \n") ==
        "circuit_from_json: expected JSON in a.json, got nothing: it is empty; "
        "save the circuit again");
  CHECK(message("[1,2,3]") ==
        "circuit_from_json: expected an object with \"format\": \"cna.circuit\" in a.json, got an "
        "array of 3; pass a file that Circuit.save wrote");
  CHECK(contains(message("{}"), "got an object of 0"));
  CHECK(contains(message("\"text\""), "got \"text\""));
  CHECK(contains(message(with("format", "\"gguf\"")), "expected an object with \"format\""));
  CHECK(message(with("format_version", "4")) ==
        "circuit_from_json: expected format_version up to 3 in a.json, got 4; update cna: a newer "
        "one wrote this");
  CHECK(contains(message(with("format_version", "0")),
                 "expected format_version 1, 2 or 3 in a.json"));
  CHECK(contains(message(with("format_version", "\"1\"")), "as format_version in a.json, got"));
  for (const std::string name :
       {"format_version", "n_layers", "width", "neurons", "universal_removed", "provenance"}) {
    CHECK(message(with(name, "")) == "circuit_from_json: expected a field \"" + name +
                                         "\" in a.json, got none; save the circuit again");
  }
  CHECK(contains(message(with("n_layers", "true")), "as n_layers in a.json, got true"));
  CHECK(contains(message(with("n_layers", "3.0")), "as n_layers in a.json, got 3.0"));
  CHECK(contains(message(with("width", "99999999999999999999")), "as width in a.json"));
  CHECK(contains(message(with("width", "18446744073709551615")), "as width in a.json"));
  CHECK(contains(message(with("width", "-9223372036854775808")), "as width in a.json"));
  CHECK(contains(message(with("n_layers", "0")), "got 0 x 4"));
  CHECK(contains(message(with("neurons", "{}")), "expected a list as neurons"));
  CHECK(contains(message(with("neurons", "[[0,0,1.0],5]")), "as neurons[1] in a.json, got 5"));
  CHECK(contains(message(with("neurons", "[[0,1]]")),
                 "expected [layer, index, delta] as neurons[0] in a.json, got an array of 2"));
  CHECK(message(with("neurons", "[[1.5,0,1.0]]")) ==
        "circuit_from_json: expected a whole number up to 2147483647 as layer of neurons[0] in "
        "a.json, got 1.5; save the circuit again");
  CHECK(contains(message(with("neurons", "[[0,\"1\",1.0]]")), "as index of neurons[0]"));
  CHECK(contains(message(with("neurons", "[[0,1,\"x\"]]")),
                 "expected a number as delta of neurons[0] in a.json, got \"x\""));
  CHECK(contains(message(with("neurons", "[[0,1,null]]")), "got null"));
  CHECK(contains(message(with("neurons", "[[0,1,NaN]]")), "got text that goes wrong at byte"));
  CHECK(contains(message(with("neurons", "[[0,1,1e999]]")), "a number too large for a double"));
  CHECK(contains(
      message(with("neurons", "[[3,0,1.0]]")),
      "expected a usable circuit in a.json, got: Circuit: expected layers below 3 and neurons "
      "below 4, got layer 3, neuron 0"));
  CHECK(contains(message(with("neurons", "[[-1,0,1.0]]")), "got layer -1, neuron 0"));
  CHECK(contains(message(with("neurons", "[[0,0,1.0],[0,0,2.0]]")), "got layer 0, neuron 0 twice"));
  CHECK(contains(message(with("universal_removed", "[[0]]")),
                 "expected [layer, index] as universal_removed[0]"));
  CHECK(contains(message(with("universal_removed", "[[0,9]]")), "got layer 0, neuron 9"));
  CHECK(contains(message(with("provenance", "[]")), "expected an object as provenance"));
  CHECK(contains(message(with("provenance", "{\"a\":" + std::string(100000, '[')) + "]"),
                 "got text nested deeper than 64 levels"));
}

TEST_CASE("json_string: any name makes a circuit that can be saved") {
  for (const std::string text : {"a\"b\\c", "line\nbreak\ttab", "caf\xe9", "\x01"}) {
    const cna::Circuit circuit({1, 1}, {}, {{"model_id", cna::json_string(text)}});
    CHECK(cna::circuit_from_json(cna::to_json(circuit)).provenance().contains("model_id"));
  }
  CHECK(cna::json_string("plain") == "\"plain\"");
}
