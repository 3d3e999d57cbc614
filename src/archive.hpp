/// The manifest of an exported folder whose archive is the one that it names.
#pragma once

#include <filesystem>
#include <string>

#include "cna/manifest.hpp"

namespace cna {

/// @throws Error if the archive's SHA-256 differs (with `verify`), ValueError for another format.
Manifest checked_manifest(const std::filesystem::path& folder, const std::string& format,
                          bool verify);

}  // namespace cna
