#include "cna/manifest.hpp"

#include <algorithm>
#include <array>
#include <fstream>
#include <limits>
#include <nlohmann/json.hpp>
#include <sstream>

#include "cna/error.hpp"

namespace cna {
namespace {

using Json = nlohmann::ordered_json;

/// A count: JSON numbers of other kinds would be rounded or wrap around.
int64_t whole(const Json& value, const char* name, int64_t least,
              const std::filesystem::path& path) {
  constexpr int64_t most = std::numeric_limits<int32_t>::max();
  const bool fits = value.is_number_integer() &&
                    (!value.is_number_unsigned() || value.get<uint64_t>() <= most) &&
                    value.get<int64_t>() >= least && value.get<int64_t>() <= most;
  if (!fits) {
    throw_value_error(
        "load: expected a whole number from {} to {} as {} in '{}', got {}; export the model again",
        least, most, name, path.string(), value.dump(-1, ' ', true));
  }
  return value.get<int64_t>();
}

/// [[experts, width of each], ...], one of each layer, [0, 0] where a layer has none.
std::vector<Experts> experts_of(const Json& value, const GridShape& shape,
                                const std::filesystem::path& path) {
  std::vector<Experts> out;
  for (const auto& layer : value)
    out.push_back({whole(layer.at(0), "experts", 0, path), whole(layer.at(1), "experts", 0, path)});
  bool fit = static_cast<int64_t>(out.size()) == shape.layers;
  for (size_t i = 0; fit && i < out.size(); ++i)
    fit = out[i].neurons() <= shape.width_of(static_cast<int64_t>(i));
  if (!fit) {
    throw_value_error(
        "load: expected the experts of {} layers, no more than their neurons, in '{}', got {}; "
        "export the model again",
        shape.layers, path.string(), value.dump(-1, ' ', true));
  }
  return out;
}

}  // namespace

Manifest read_manifest(const std::filesystem::path& folder) {
  const auto path = folder / "manifest.json";
  std::ifstream file(path);
  if (!file) {
    throw_as<FileNotFound>(
        "load: expected an exported folder with a manifest.json, found none in '{}'; "
        "make one with `cna export`",
        folder.string());
  }
  std::stringstream text;
  text << file.rdbuf();
  try {
    const auto json = Json::parse(text.str());
    const auto count = [&](const char* name, int64_t least) {
      return whole(json.at(name), name, least, path);
    };
    if (json.at("format") != "cna.model") {
      throw_value_error("load: expected format 'cna.model' in '{}', got {}; export the model again",
                        path.string(), json.at("format").dump());
    }
    Manifest out;
    out.step = count("format_version", 0);
    if (out.step != 1 && out.step != 2) {
      throw_value_error(
          "load: expected format_version 1 or 2 in '{}', got {}; update cna or export the "
          "model again",
          path.string(), out.step);
    }
    out.archive = json.at("archive").get<std::string>();
    out.archive_format = json.at("archive_format").get<std::string>();
    out.sha256 = json.at("sha256").get<std::string>();
    out.model_id = json.at("model_id").get<std::string>();
    out.weights_hash = json.at("weights_hash").get<std::string>();
    out.dtype = json.at("dtype").get<std::string>();
    out.tap_pattern = json.at("tap_pattern").get<std::string>();
    out.unembedding = json.value("unembedding", std::string());
    out.shape = {count("n_layers", 1), count("width", 1)};
    if (json.contains("widths")) {
      std::vector<int64_t> widths;
      for (const auto& width : json.at("widths")) widths.push_back(whole(width, "widths", 0, path));
      const GridShape uneven = GridShape::of(std::move(widths));
      if (uneven.layers != out.shape.layers || uneven.width != out.shape.width) {
        throw_value_error(
            "load: expected widths of {} layers, the largest {}, in '{}', got {} up to {}; export "
            "the model again",
            out.shape.layers, out.shape.width, path.string(), uneven.layers, uneven.width);
      }
      out.shape = uneven;
    }
    if (json.contains("experts"))
      out.shape.experts = experts_of(json.at("experts"), out.shape, path);
    out.hidden = count("hidden_size", 1);
    out.vocab = count("vocab_size", 0);
    out.max_positions = count("max_positions", 0);
    for (const auto& id : json.at("eos_token_ids"))
      out.eos_ids.push_back(whole(id, "eos_token_ids", 0, path));
    if (out.archive_format == "aoti") {
      out.torch = json.at("made_with").at("torch").get<std::string>();
      out.device = json.at("device").get<std::string>();
      out.cpu_capability = json.at("cpu_capability").get<std::string>();
      out.neuron_sites = json.at("neuron_sites").get<std::vector<std::string>>();
      if (json.contains("gains")) {
        const auto& gains = json.at("gains");
        out.gains = gains.at("file").get<std::string>();
        out.gains_sha256 = gains.at("sha256").get<std::string>();
        out.centred = gains.at("centred").get<bool>();
        out.transposed = gains.at("transposed").get<bool>();
      }
    } else if (out.archive_format != "torchscript") {
      throw_value_error(
          "load: expected archive_format 'torchscript' or 'aoti' in '{}', got '{}'; update cna or "
          "export the model again",
          path.string(), out.archive_format);
    }
    if (json.contains("layouts")) {
      const auto& layouts = json.at("layouts");
      out.layouts = {layouts.at("batch").get<bool>(), layouts.at("padding").get<bool>(),
                     layouts.at("share_prefix").get<bool>(),
                     out.step > 1 && layouts.at("room").get<bool>()};
    }
    out.residual_sites = json.value("residual_sites", true);
    for (const auto& layer : json.at("cache")) {
      std::array<int64_t, 3> shape{};
      for (size_t i = 0; i < shape.size(); ++i) shape[i] = whole(layer.at(i), "cache", 1, path);
      out.cache.push_back({shape[0], shape[1], shape[2]});
    }
    const auto layers = static_cast<size_t>(out.shape.layers);
    const bool compiled = out.archive_format == "aoti";
    const std::array dtypes{"float32", "bfloat16", "float16", "float64"};
    if (std::find(dtypes.begin(), dtypes.end(), out.dtype) == dtypes.end() ||
        (compiled && (out.neuron_sites.size() != layers || out.cache.empty() ||
                      (out.device != "cpu" && out.device != "cuda")))) {
      throw_value_error(
          "load: expected a floating-point dtype, a device, caches and the sites of {} layers in "
          "'{}', got {}, {}, {} and {}; export the model again",
          out.shape.layers, path.string(), out.dtype, compiled ? out.device : "any device",
          out.cache.size(), out.neuron_sites.size());
    }
    if (out.archive.find('/') != std::string::npos || out.archive.empty() ||
        out.gains.find('/') != std::string::npos) {
      throw_value_error(
          "load: expected a plain file name as archive in '{}', got '{}'; export the "
          "model again",
          path.string(), out.archive);
    }
    return out;
  } catch (const nlohmann::json::exception& error) {
    throw_value_error(
        "load: expected a whole manifest in '{}', got one that does not parse ({}); "
        "export the model again",
        path.string(), error.what());
  }
}

}  // namespace cna
