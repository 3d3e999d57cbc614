/// SHA-256 of files, as manifests hold it (FIPS 180-4).
#pragma once

#include <filesystem>
#include <string>
#include <string_view>

namespace cna {

/// The digest of a text, 64 hexadecimal digits.
std::string sha256(std::string_view bytes);

/// The digest of a file, read in blocks.
/// @throws Error if it cannot be read.
std::string sha256_of_file(const std::filesystem::path& path);

}  // namespace cna
