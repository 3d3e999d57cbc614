#include "cna/manifest.hpp"

#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>

#include "cna/error.hpp"

namespace cna {

Manifest read_manifest(const std::filesystem::path& folder) {
  const auto path = folder / "manifest.json";
  std::ifstream file(path);
  if (!file) {
    throw_error(
        "load: expected an exported folder with a manifest.json, found none in '{}'; "
        "make one with `cna export`",
        folder.string());
  }
  std::stringstream text;
  text << file.rdbuf();
  try {
    const auto json = nlohmann::json::parse(text.str());
    if (json.at("format") != "cna.model") {
      throw_value_error("load: expected format 'cna.model' in '{}'; export the model again",
                        path.string());
    }
    if (json.at("format_version").get<int>() != 1) {
      throw_value_error(
          "load: expected format_version 1 in '{}', got {}; update cna or export the "
          "model again",
          path.string(), json.at("format_version").get<int>());
    }
    Manifest out;
    out.archive = json.at("archive").get<std::string>();
    out.archive_format = json.at("archive_format").get<std::string>();
    out.sha256 = json.at("sha256").get<std::string>();
    out.model_id = json.at("model_id").get<std::string>();
    out.weights_hash = json.at("weights_hash").get<std::string>();
    out.dtype = json.at("dtype").get<std::string>();
    out.tap_pattern = json.at("tap_pattern").get<std::string>();
    out.layers = json.at("n_layers").get<int64_t>();
    out.width = json.at("width").get<int64_t>();
    out.hidden = json.at("hidden_size").get<int64_t>();
    out.vocab = json.at("vocab_size").get<int64_t>();
    out.max_positions = json.at("max_positions").get<int64_t>();
    out.eos_ids = json.at("eos_token_ids").get<std::vector<int64_t>>();
    if (out.archive_format == "aoti") {
      out.torch = json.at("made_with").at("torch").get<std::string>();
      out.device = json.at("device").get<std::string>();
      out.cpu_capability = json.at("cpu_capability").get<std::string>();
      out.neuron_sites = json.at("neuron_sites").get<std::vector<std::string>>();
    } else if (out.archive_format != "torchscript") {
      throw_value_error(
          "load: expected archive_format 'torchscript' or 'aoti' in '{}', got '{}'; update cna or "
          "export the model again",
          path.string(), out.archive_format);
    }
    for (const auto& layer : json.at("cache")) {
      const auto shape = layer.get<std::array<int64_t, 3>>();
      out.cache.push_back({shape[0], shape[1], shape[2]});
    }
    const auto layers = static_cast<size_t>(out.layers);
    const bool compiled = out.archive_format == "aoti";
    if ((out.dtype != "float32" && out.dtype != "bfloat16" && out.dtype != "float16") ||
        (compiled && (out.neuron_sites.size() != layers || out.cache.empty() ||
                      (out.device != "cpu" && out.device != "cuda")))) {
      throw_value_error(
          "load: expected dtype, device, caches and sites of {} layers that agree in '{}', got "
          "{}, {}, {} and {}; export the model again",
          out.layers, path.string(), out.dtype, compiled ? out.device : "any device",
          out.cache.size(), out.neuron_sites.size());
    }
    if (out.archive.find('/') != std::string::npos || out.archive.empty()) {
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
