#include "archive.hpp"

#include "cna/error.hpp"
#include "cna/sha256.hpp"
#include "cna/torch/host.hpp"

namespace cna {

Manifest checked_manifest(const std::filesystem::path& folder, const std::string& format,
                          bool verify) {
  Manifest manifest = read_manifest(folder);
  if (manifest.archive_format != format) {
    throw_value_error(
        "load: expected archive_format '{}' in '{}', got '{}'; open it with cna::open_host", format,
        folder.string(), manifest.archive_format);
  }
  const auto archive = folder / manifest.archive;
  if (!std::filesystem::exists(archive)) {
    throw_as<FileNotFound>(
        "load: expected a model file, found nothing at '{}'; export the model again",
        archive.string());
  }
  if (verify && sha256_of_file(archive) != manifest.sha256) {
    throw_error(
        "load: expected the archive that the manifest of '{}' names, got one that was changed or "
        "truncated (SHA-256 differs); export the model again",
        folder.string());
  }
  return manifest;
}

std::unique_ptr<Host> open_host(const std::filesystem::path& path, const HostOptions& options) {
  const bool compiled =
      std::filesystem::is_directory(path) && read_manifest(path).archive_format == "aoti";
  return compiled ? open_aoti(path, options) : open_torchscript(path, options);
}

}  // namespace cna
