/// Circuits as JSON text and as files.
///
///   {"format": "cna.circuit", "format_version": 1, "n_layers": 30, "width": 1536,
///    ("widths": [1536, 768, ...] of each layer where they differ; then format_version is 2,)
///    ("experts": [[count, width], ...] of each layer of a mixture; then format_version is 3,)
///    "neurons": [[layer, index, delta], ...], "universal_removed": [[layer, index], ...],
///    "provenance": {name: any JSON value, ...}}

#include <cerrno>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <limits>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include "cna/circuit.hpp"
#include "temporary_file.hpp"

namespace cna {

namespace {

using Json = nlohmann::ordered_json;

constexpr const char* format_name = "cna.circuit";
constexpr int64_t format_version = 3;
constexpr int deepest = 64;  // levels of JSON: deeper text is an attack or a mistake

/// The oldest version that says all of a shape, so that older releases read what they can.
int64_t version_for(const GridShape& shape) {
  if (!shape.experts.empty()) return format_version;
  return shape.widths.empty() ? 1 : 2;
}

Json parse_json(std::string_view text) {
  return Json::parse(text, [](int depth, Json::parse_event_t, Json&) {
    if (depth > deepest) throw_value_error("nested deeper than {} levels", deepest);
    return true;
  });
}

/// Reads one circuit; knows what to name in a message.
class Reader {
 public:
  Reader(std::string_view function, std::string_view origin)
      : function_(function), origin_(origin) {}

  [[nodiscard]] Circuit read(std::string_view text) const {
    const Json root = parse(text);
    if (!root.is_object() || !root.contains("format") || root["format"] != format_name) {
      fail("expected an object with \"format\": \"cna.circuit\"", summary(root),
           "pass a file that Circuit.save wrote");
    }
    const int64_t written = whole(field(root, "format_version"), "format_version");
    if (written > format_version) {
      fail(fmt::format("expected format_version up to {}", format_version),
           fmt::format("{}", written), "update cna: a newer one wrote this");
    }
    if (written < 1) {
      fail("expected format_version 1, 2 or 3", fmt::format("{}", written),
           "save the circuit again");
    }
    GridShape shape{whole(field(root, "n_layers"), "n_layers"),
                    whole(field(root, "width"), "width")};
    if (root.contains("widths")) {
      for (const Json& entry : list(root, "widths")) shape.widths.push_back(whole(entry, "width"));
    }
    if (root.contains("experts")) {
      for (const Json& entry : list(root, "experts")) {
        const NeuronId both = place(entry, "experts", 2, "[count, width]");
        shape.experts.push_back({both.layer, both.index});
      }
    }
    std::vector<Neuron> neurons;
    for (const Json& entry : list(root, "neurons")) {
      const std::string name = fmt::format("neurons[{}]", neurons.size());
      const NeuronId id = place(entry, name, 3, "[layer, index, delta]");
      if (!entry[2].is_number()) {
        fail(fmt::format("expected a number as delta of {}", name), summary(entry[2]),
             "find the circuit again");
      }
      neurons.push_back({id.layer, id.index, entry[2].get<double>()});
    }
    std::vector<NeuronId> removed;
    for (const Json& entry : list(root, "universal_removed")) {
      const std::string name = fmt::format("universal_removed[{}]", removed.size());
      removed.push_back(place(entry, name, 2, "[layer, index]"));
    }
    const Json& values = field(root, "provenance");
    if (!values.is_object()) {
      fail("expected an object as provenance", summary(values), "write {} if nothing is known");
    }
    Provenance provenance;
    for (const auto& [name, value] : values.items()) provenance[name] = value.dump();
    try {
      return Circuit(shape, std::move(neurons), std::move(provenance), std::move(removed));
    } catch (const std::exception& error) {
      throw_value_error("{}: expected a usable circuit in {}, got: {}", function_, origin_,
                        error.what());
    }
  }

 private:
  [[noreturn]] void fail(std::string_view expected, std::string_view got,
                         std::string_view todo) const {
    throw_value_error("{}: {} in {}, got {}; {}", function_, expected, origin_, got, todo);
  }

  [[nodiscard]] Json parse(std::string_view text) const {
    if (text.find_first_not_of(" \t\r\n") == std::string_view::npos) {
      fail("expected JSON", "nothing: it is empty", "save the circuit again");
    }
    try {
      return parse_json(text);
    } catch (const Json::parse_error& error) {
      fail("expected JSON",
           error.byte > text.size() ? "text that breaks off at its end"
                                    : fmt::format("text that goes wrong at byte {}", error.byte),
           "save the circuit again, NaN and infinity are not JSON");
    } catch (const Json::exception&) {
      fail("expected JSON", "a number too large for a double", "find the circuit again");
    } catch (const ValueError& error) {
      fail("expected JSON", fmt::format("text {}", error.what()), "save the circuit again");
    }
  }

  /// What came, on one short line.
  [[nodiscard]] static std::string summary(const Json& value) {
    if (value.is_structured()) return fmt::format("an {} of {}", value.type_name(), value.size());
    std::string text = value.dump(-1, ' ', true);
    return text.size() <= 40 ? text : text.substr(0, 37) + "...";
  }

  [[nodiscard]] const Json& field(const Json& root, const char* name) const {
    const auto found = root.find(name);
    if (found == root.end()) {
      fail(fmt::format("expected a field \"{}\"", name), "none", "save the circuit again");
    }
    return *found;
  }

  [[nodiscard]] const Json& list(const Json& root, const char* name) const {
    const Json& value = field(root, name);
    if (!value.is_array()) {
      fail(fmt::format("expected a list as {}", name), summary(value), "save the circuit again");
    }
    return value;
  }

  [[nodiscard]] int64_t whole(const Json& value, std::string_view name) const {
    constexpr int64_t most = std::numeric_limits<int32_t>::max();
    const bool fits = value.is_number_unsigned()
                          ? value.get<uint64_t>() <= static_cast<uint64_t>(most)
                          : value.is_number_integer() && value.get<int64_t>() >= -most;
    if (!fits) {
      fail(fmt::format("expected a whole number up to {} as {}", most, name), summary(value),
           "save the circuit again");
    }
    return value.get<int64_t>();
  }

  [[nodiscard]] NeuronId place(const Json& entry, const std::string& name, std::size_t size,
                               std::string_view form) const {
    if (!entry.is_array() || entry.size() != size) {
      fail(fmt::format("expected {} as {}", form, name), summary(entry), "save the circuit again");
    }
    return {static_cast<int32_t>(whole(entry[0], "layer of " + name)),
            static_cast<int32_t>(whole(entry[1], "index of " + name))};
  }

  std::string_view function_;
  std::string_view origin_;
};

}  // namespace

std::string to_json(const Circuit& circuit) {
  Json neurons = Json::array();
  for (const Neuron& neuron : circuit.neurons()) {
    neurons.push_back(Json::array({neuron.layer, neuron.index, neuron.delta}));
  }
  Json removed = Json::array();
  for (const NeuronId id : circuit.universal_removed()) {
    removed.push_back(Json::array({id.layer, id.index}));
  }
  Json provenance = Json::object();
  for (const auto& [name, value] : circuit.provenance()) {
    try {
      (void)Json(name).dump();  // throws if the name is not UTF-8
      provenance[name] = parse_json(value);
    } catch (const std::exception&) {
      throw_value_error(
          "to_json: expected JSON text as provenance {}, got {}; write text in "
          "double quotes",
          json_string(name), json_string(value));
    }
  }
  const GridShape& shape = circuit.shape();
  Json out{{"format", format_name},
           {"format_version", version_for(shape)},
           {"n_layers", shape.layers},
           {"width", shape.width}};
  if (!shape.widths.empty()) out["widths"] = shape.widths;
  for (const Experts& here : shape.experts) {
    out["experts"].push_back(Json::array({here.count, here.width}));
  }
  out["neurons"] = std::move(neurons);
  out["universal_removed"] = std::move(removed);
  out["provenance"] = std::move(provenance);
  return out.dump();
}

Circuit circuit_from_json(std::string_view text, std::string_view origin) {
  return Reader("circuit_from_json", origin).read(text);
}

void save_circuit(const Circuit& circuit, const std::filesystem::path& path) {
  const std::string text = to_json(circuit) + "\n";
  try {
    const bool linked = std::filesystem::is_symlink(path);
    const std::filesystem::path target = linked ? std::filesystem::weakly_canonical(path) : path;
    if (std::filesystem::exists(target) && !std::filesystem::is_regular_file(target)) {
      throw std::system_error(EINVAL, std::generic_category(), "replace what is not a file");
    }
    TemporaryFile file(target);
    file.write(text);
    file.rename_to(target);
  } catch (const std::system_error& error) {
    throw_error(
        "save_circuit: expected to write {}, got \"{}\"; check that the folder exists, may "
        "be written to and has room",
        path.string(), error.what());
  }
}

Circuit load_circuit(const std::filesystem::path& path) {
  std::error_code ignored;
  if (!std::filesystem::exists(path, ignored)) {
    throw_as<FileNotFound>("load_circuit: expected a circuit file at {}, got none; check the path",
                           path.string());
  }
  if (std::filesystem::is_directory(path, ignored)) {
    throw_error("load_circuit: expected a circuit file at {}, got a folder; name the file in it",
                path.string());
  }
  std::ifstream file(path, std::ios::binary);
  const std::string text{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
  if (!file.is_open() || file.bad()) {
    throw_error("load_circuit: expected to read {}, got \"{}\"; check its permissions",
                path.string(), std::strerror(errno));
  }
  return Reader("load_circuit", path.string()).read(text);
}

}  // namespace cna
