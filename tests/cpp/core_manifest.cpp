#include <filesystem>
#include <fstream>

#include "catch.hpp"
#include "cna/error.hpp"
#include "cna/manifest.hpp"

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
  CHECK(manifest.layers == 2);
  CHECK(manifest.width == 8);
  CHECK(manifest.cache.size() == 2);
  CHECK(manifest.cache[1].value_dim == 6);
  CHECK(manifest.eos_ids == std::vector<int64_t>{3});
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
