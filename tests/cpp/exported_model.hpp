/// LiveModel's weights as an exported folder, of either version of the step (docs/export.md).
#pragma once

#include <torch/script.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>

#include "cna/sha256.hpp"
#include "live_model.hpp"

namespace cna::test {

/// One step in TorchScript's language; version 1 writes the last places of its buffers.
inline std::string step_code(int64_t version) {
  std::string inputs = "self, ids, mask, positions, keep";
  if (version > 1) inputs += ", places";
  for (int64_t l = 0; l < LiveModel::kLayers; ++l)
    inputs += ", k" + std::to_string(l) + ", v" + std::to_string(l);
  std::string code =
      "def forward(" + inputs +
      "):\n"
      "  x = torch.embedding(self.embed, ids) + torch.embedding(self.places, positions)\n"
      "  order = torch.cumsum(mask, 1) - 1\n"
      "  seen = (order.unsqueeze(1) <= positions.unsqueeze(2)) & (mask.unsqueeze(1) > 0)\n"
      "  bias = torch.zeros_like(seen, dtype=x.dtype).masked_fill(~seen, -1e30).unsqueeze(1)\n";
  const auto norm = [](const char* to) {
    return std::string("  ") + to + " = x * torch.rsqrt(x.square().mean([-1], True) + 1e-6)\n";
  };
  for (int64_t l = 0; l < LiveModel::kLayers; ++l) {
    const std::string n = std::to_string(l), at = "self.layer" + n;
    const auto heads = [&](const std::string& which) {
      return "torch.linear(n, " + at + "." + which + ".weight).unflatten(2, [-1, " +
             std::to_string(LiveModel::kDim) + "]).transpose(1, 2)";
    };
    code += norm("n");
    for (const std::string part : {"k", "v"}) {
      const std::string buffer = part + n, fresh = heads(part == "k" ? "key" : "value");
      if (version > 1)
        code += "  " + buffer + " = " + buffer + ".index_copy_(2, places, " + fresh + ")\n";
      else
        code += "  " + buffer + "[:, :, " + buffer + ".size(2) - ids.size(1):] = " + fresh + "\n";
    }
    const std::string group = std::to_string(LiveModel::kHeads / LiveModel::kSharedHeads);
    code += "  a = torch.scaled_dot_product_attention(" + heads("query") + ", k" + n +
            ".repeat_interleave(" + group + ", 1), v" + n + ".repeat_interleave(" + group +
            ", 1), bias)\n  x = x + torch.linear(a.transpose(1, 2).flatten(2), " + at +
            ".out.weight)\n" + norm("n") + "  x = x + " + at + ".mlp.forward(n)\n";
  }
  return code + norm("n") + "  return torch.linear(torch.index_select(n, 1, keep), self.unembed)\n";
}

inline ::torch::jit::Module exported_module(const LiveModel& weights, int64_t version) {
  namespace jit = ::torch::jit;
  auto unit = std::make_shared<jit::CompilationUnit>();
  jit::Module model("Exported", unit);
  model.register_parameter("embed", weights.embed, false);
  model.register_parameter("places", weights.places, false);
  model.register_parameter("unembed", weights.unembed, false);
  for (size_t l = 0; l < weights.layers.size(); ++l) {
    const LiveModel::Layer& w = weights.layers[l];
    const std::string n = std::to_string(l);
    jit::Module layer("Layer" + n, unit), mlp("Mlp" + n, unit);
    const auto linear = [&](jit::Module& in, const std::string& name, const at::Tensor& weight) {
      jit::Module part(name + n, unit);
      part.register_parameter("weight", weight, false);
      in.register_module(name, part);
    };
    linear(layer, "query", w.query), linear(layer, "key", w.key), linear(layer, "value", w.value);
    linear(layer, "out", w.out);
    linear(mlp, "gate_proj", w.gate), linear(mlp, "up_proj", w.up),
        linear(mlp, "down_proj", w.down);
    mlp.define(
        "def forward(self, n):\n"
        "  a = torch.silu(torch.linear(n, self.gate_proj.weight)) * "
        "torch.linear(n, self.up_proj.weight)\n"
        "  return torch.linear(a, self.down_proj.weight)\n");
    layer.register_module("mlp", mlp);
    model.register_module("layer" + n, layer);
  }
  model.define(step_code(version));
  return model;
}

/// The folder, removed at the end.
struct ExportedFolder {
  explicit ExportedFolder(const LiveModel& weights, int64_t version) {
    path = std::filesystem::temp_directory_path() /
           ("cna_export_" + std::to_string(version) + "_" + std::to_string(::getpid()));
    std::filesystem::create_directories(path);
    exported_module(weights, version).save((path / "model.pt").string());
    nlohmann::ordered_json about = {
        {"format", "cna.model"},
        {"format_version", version},
        {"archive_format", "torchscript"},
        {"archive", "model.pt"},
        {"sha256", sha256_of_file(path / "model.pt")},
        {"tap_pattern", ""},
        {"model_id", "exported-test"},
        {"weights_hash", "none"},
        {"dtype", "float32"},
        {"n_layers", LiveModel::kLayers},
        {"width", LiveModel::kWidth},
        {"hidden_size", LiveModel::kHidden},
        {"vocab_size", LiveModel::kVocab},
        {"max_positions", LiveModel::kPositions},
        {"eos_token_ids", std::vector<int64_t>()},
        {"layouts", {{"batch", true}, {"padding", true}, {"share_prefix", true}}}};
    if (version > 1) about["layouts"]["room"] = true;
    for (int64_t l = 0; l < LiveModel::kLayers; ++l)
      about["cache"].push_back({LiveModel::kSharedHeads, LiveModel::kDim, LiveModel::kDim});
    std::ofstream(path / "manifest.json") << about.dump(1);
  }
  ~ExportedFolder() { std::filesystem::remove_all(path); }
  ExportedFolder(const ExportedFolder&) = delete;
  ExportedFolder& operator=(const ExportedFolder&) = delete;
  std::filesystem::path path;
};

}  // namespace cna::test
