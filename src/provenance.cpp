#include "cna/provenance.hpp"

#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "cna/sha256.hpp"

namespace cna {

std::string json_string(std::string_view text) {
  using Json = nlohmann::json;
  return Json(text).dump(-1, ' ', true, Json::error_handler_t::replace);
}

std::string prompt_hash(std::span<const std::span<const std::vector<int64_t>>> sets) {
  // The spelling of Python's json.dumps, in which older circuits were hashed.
  std::string text;
  const auto list = [&text](const auto& items, const auto& write) {
    text += '[';
    bool first = true;
    for (const auto& item : items) {
      if (!first) text += ", ";
      first = false;
      write(item);
    }
    text += ']';
  };
  list(sets, [&](const auto& prompts) {
    list(prompts, [&](const auto& prompt) {
      list(prompt, [&](int64_t id) { text += fmt::format("{}", id); });
    });
  });
  return sha256(text).substr(0, 16);
}

}  // namespace cna
