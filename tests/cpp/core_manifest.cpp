#include <filesystem>
#include <fstream>

#include "catch.hpp"
#include "cna/error.hpp"
#include "cna/manifest.hpp"
#include "cna/sha256.hpp"

using cna::test::contains;
using cna::test::message_of;

namespace {

const char* const kWhole = R"({
  "format": "cna.model", "format_version": 1, "archive": "model.pt",
  "archive_format": "torchscript", "sha256": "ab", "model_id": "tiny", "weights_hash": "cd",
  "dtype": "float32", "tap_pattern": "", "n_layers": 2, "width": 8, "hidden_size": 4,
  "vocab_size": 16, "max_positions": 32, "cache": [[2, 4, 4], [2, 4, 6]], "eos_token_ids": [3]})";

/// A folder with this manifest, removed at the end.
struct Folder {
  explicit Folder(const std::string& text) {
    std::filesystem::create_directories(path);
    std::ofstream(path / "manifest.json") << text;
  }
  ~Folder() { std::filesystem::remove_all(path); }
  std::filesystem::path path = std::filesystem::temp_directory_path() / "cna_manifest_test";
};

}  // namespace

TEST_CASE("read_manifest: a whole manifest comes back as written") {
  const Folder folder(kWhole);
  const cna::Manifest manifest = cna::read_manifest(folder.path);
  CHECK(manifest.shape.layers == 2);
  CHECK(manifest.shape.width == 8);
  CHECK(manifest.cache.size() == 2);
  CHECK(manifest.cache[1].value_dim == 6);
  CHECK(manifest.eos_ids == std::vector<int64_t>{3});
}

TEST_CASE("read_manifest: layouts are all good unless the export says otherwise") {
  const auto with = [](const std::string& more) {
    std::string text = kWhole;
    const Folder folder(text.insert(text.rfind('}'), more));
    return cna::read_manifest(folder.path);
  };
  const cna::Manifest old = with("");
  CHECK((old.layouts.batch && old.layouts.padding && old.layouts.share_prefix));
  CHECK(old.residual_sites);
  const cna::Manifest found = with(
      R"(, "residual_sites": false,
         "layouts": {"batch": true, "padding": false, "share_prefix": false})");
  CHECK((found.layouts.batch && !found.layouts.padding && !found.layouts.share_prefix));
  CHECK(!found.residual_sites);
  CHECK_THROWS_AS((void)with(R"(, "layouts": {"batch": 1})"), cna::ValueError);
}

TEST_CASE("read_manifest: an export says which step it holds, and whether buffers may have room") {
  const auto of_version = [](const std::string& version, const std::string& more) {
    std::string text = kWhole;
    const std::string first = "\"format_version\": 1";
    text.replace(text.find(first), first.size(), "\"format_version\": " + version);
    const Folder folder(text.insert(text.rfind('}'), more));
    return cna::read_manifest(folder.path);
  };
  const std::string with = R"(, "layouts":
      {"batch": true, "padding": true, "share_prefix": true, "room": true})";
  CHECK(of_version("1", with).step == 1);
  CHECK_FALSE(of_version("1", with).layouts.room);  // its graph writes the last places
  CHECK(of_version("1", with).leading_inputs() == 4);
  CHECK(of_version("2", with).layouts.room);
  CHECK(of_version("2", with).leading_inputs() == 5);
  CHECK_FALSE(of_version("2", "").layouts.room);
  CHECK(contains(message_of<cna::ValueError>([&] { (void)of_version("3", with); }),
                 "expected format_version 1 or 2"));
}

TEST_CASE("read_manifest: a missing, cut or newer manifest is refused") {
  CHECK_THROWS_AS((void)cna::read_manifest("/no/such/folder"), cna::Error);
  const std::string whole = kWhole;
  for (const std::string& text :
       {std::string(), whole.substr(0, 80), std::string("[]"), std::string("{}")}) {
    const Folder folder(text);
    CHECK_THROWS_AS((void)cna::read_manifest(folder.path), cna::ValueError);
  }
  std::string newer = whole;
  newer.replace(newer.find("\"format_version\": 1"), 19, "\"format_version\": 9");
  const Folder folder(newer);
  CHECK(contains(message_of<std::exception>([&] { (void)cna::read_manifest(folder.path); }),
                 "got 9"));
}

TEST_CASE("read_manifest: an archive outside the folder is refused") {
  std::string text = kWhole;
  text.replace(text.find("model.pt"), 8, "../../x.pt");
  const Folder folder(text);
  CHECK_THROWS_AS((void)cna::read_manifest(folder.path), cna::ValueError);
}

TEST_CASE("read_manifest: a compiled archive says for which machine") {
  std::string text = kWhole;
  text.replace(text.find("torchscript"), 11, "aoti");
  {
    const Folder folder(text);
    CHECK_THROWS_AS((void)cna::read_manifest(folder.path), cna::ValueError);
  }
  text.insert(text.rfind('}'),
              R"(, "made_with": {"torch": "2.13.0"}, "device": "cpu", "cpu_capability": "AVX2",
                 "neuron_sites": ["a", "b"])");
  const Folder folder(text);
  const cna::Manifest manifest = cna::read_manifest(folder.path);
  CHECK(manifest.archive_format == "aoti");
  CHECK(manifest.torch == "2.13.0");
  CHECK(manifest.device == "cpu");
  CHECK(manifest.cpu_capability == "AVX2");
  CHECK(manifest.neuron_sites == std::vector<std::string>{"a", "b"});
  for (const auto& [from, to] : {std::pair("\"cpu\"", "\"banana\""), std::pair("float32", "int8"),
                                 std::pair("\"a\", \"b\"", "\"a\"")}) {
    std::string odd = text;
    odd.replace(odd.find(from), std::string(from).size(), to);
    const Folder other(odd);
    CHECK(contains(message_of<cna::ValueError>([&] { (void)cna::read_manifest(other.path); }),
                   "floating-point dtype"));
  }
}

TEST_CASE("read_manifest: numbers that are no counts are refused by name") {
  for (const auto& [from, to, name] :
       {std::tuple("\"n_layers\": 2", "\"n_layers\": 0", "n_layers"),
        std::tuple("\"width\": 8", "\"width\": -8", "width"),
        std::tuple("\"width\": 8", "\"width\": 1e300", "width"),
        std::tuple("\"vocab_size\": 16", "\"vocab_size\": 18446744073709551615", "vocab_size"),
        std::tuple("[2, 4, 4]", "[2, -4, 4]", "cache"),
        std::tuple("[2, 4, 4]", "[2, 4]", "manifest"),
        std::tuple("[3]}", "[3.5]}", "eos_token_ids"),
        std::tuple("\"format_version\": 1", "\"format_version\": 1.9", "format_version")}) {
    std::string odd = kWhole;
    odd.replace(odd.find(from), std::string(from).size(), to);
    const Folder folder(odd);
    CHECK(contains(message_of<cna::ValueError>([&] { (void)cna::read_manifest(folder.path); }),
                   name));
  }
}

TEST_CASE("read_manifest: double precision is a dtype") {
  std::string text = kWhole;
  text.replace(text.find("float32"), 7, "float64");
  const Folder folder(text);
  CHECK(cna::read_manifest(folder.path).dtype == "float64");
}

TEST_CASE("read_manifest: an archive format of the future is refused") {
  std::string text = kWhole;
  text.replace(text.find("torchscript"), 11, "crystal");
  const Folder folder(text);
  CHECK(contains(message_of<cna::ValueError>([&] { (void)cna::read_manifest(folder.path); }),
                 "got 'crystal'"));
}

TEST_CASE("sha256: digests of the standard's examples") {
  CHECK(cna::sha256("") == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  CHECK(cna::sha256("abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  CHECK(cna::sha256("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq") ==
        "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
  CHECK(cna::sha256(std::string(1000000, 'a')) ==
        "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
}

TEST_CASE("sha256_of_file: a file has the digest of its bytes; a missing one is named") {
  const std::string text(3000001, 'x');
  const auto path = std::filesystem::temp_directory_path() / "cna_sha256_test";
  std::ofstream(path, std::ios::binary) << text;
  CHECK(cna::sha256_of_file(path) == cna::sha256(text));
  std::filesystem::remove(path);
  CHECK(contains(message_of<cna::Error>([&] { (void)cna::sha256_of_file(path); }), path.string()));
}
