#include "cna/torch/host.hpp"

#include <c10/util/Exception.h>

#include "cna/error.hpp"
#include "cna/sha256.hpp"
#include "torch_message.hpp"

namespace cna {

std::unique_ptr<Host> open_host(const std::filesystem::path& path, const HostOptions& options) {
  if (!std::filesystem::is_directory(path)) return open_torchscript(path, options);
  const Manifest manifest = read_manifest(path);
  const auto archive = path / manifest.archive;
  if (options.verify && std::filesystem::exists(archive) &&
      sha256_of_file(archive) != manifest.sha256) {
    throw_error(
        "load: expected the archive that the manifest of '{}' names, got one that was changed or "
        "truncated (SHA-256 differs); export the model again",
        path.string());
  }
  return manifest.archive_format == "aoti" ? open_aoti(path, options)
                                           : open_torchscript(path, options);
}

std::string first_line(const std::exception& error) {
  const auto* torch_error = dynamic_cast<const c10::Error*>(&error);
  std::string text = torch_error ? torch_error->what_without_backtrace() : error.what();
  // The interpreter puts the cause after its own trace.
  for (const char* marker : {"RuntimeError: ", "Error: "}) {
    if (const auto at = text.rfind(marker); at != std::string::npos) {
      text = text.substr(at);
      break;
    }
  }
  return text.substr(0, text.find('\n'));
}

}  // namespace cna
