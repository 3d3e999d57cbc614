/// What a circuit was found with, and the hash that names a set of prompts.
///
///   prompt_hash = first 16 digits of SHA-256 over the token ids, written as JSON
///
/// Both languages call this one function, so a circuit found from C++ and one found from Python on
/// the same prompts carry the same hash.
#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace cna {

/// Names to values, each value written as JSON ("\"smollm2\"", "8").
using Provenance = std::map<std::string, std::string>;

/// A text as a JSON string, quotes included; bytes that are not UTF-8 become U+FFFD.
[[nodiscard]] std::string json_string(std::string_view text);

/// Hash of sets of prompts, each prompt a list of token ids; order counts. 16 hexadecimal digits.
[[nodiscard]] std::string prompt_hash(std::span<const std::span<const std::vector<int64_t>>> sets);

/// The hash of one set.
[[nodiscard]] inline std::string prompt_hash(std::span<const std::vector<int64_t>> prompts) {
  return prompt_hash(std::span<const std::span<const std::vector<int64_t>>>(&prompts, 1));
}

/// The hash of a contrast: both sets, positive first.
[[nodiscard]] inline std::string prompt_hash(std::span<const std::vector<int64_t>> positive,
                                             std::span<const std::vector<int64_t>> negative) {
  const std::span<const std::vector<int64_t>> both[] = {positive, negative};
  return prompt_hash(both);
}

}  // namespace cna
