/// A two-layer language model in TorchScript, made in C++: no file and no Python needed.
///
///   x = E[ids];  per layer: x = x + D_l (sigmoid(x G_l^T) * (x U_l^T));  logits = x E^T
#pragma once

#include <torch/script.h>
#include <unistd.h>

#include <filesystem>
#include <string>
#include <vector>

namespace cna::test {

constexpr int64_t kLayers = 2, kWidth = 12, kHidden = 6, kVocab = 20;

struct TinyWeights {
  at::Tensor embed;
  std::vector<at::Tensor> gate, up, down;

  explicit TinyWeights(uint64_t seed) {
    at::Generator generator = at::detail::createCPUGenerator(seed);
    const auto random = [&](int64_t rows, int64_t cols) {
      return at::randn({rows, cols}, generator, at::kFloat);
    };
    embed = random(kVocab, kHidden);
    for (int64_t l = 0; l < kLayers; ++l) {
      gate.push_back(random(kWidth, kHidden));
      up.push_back(random(kWidth, kHidden));
      down.push_back(random(kHidden, kWidth) * 0.3);
    }
  }

  /// Plain reference: activations [layers, width] at the last token, and its logits [vocab]. The
  /// neurons of `scale` [layers, width] are multiplied before the down projection.
  std::pair<at::Tensor, at::Tensor> run(const std::vector<int64_t>& ids,
                                        const at::Tensor& scale = {}) const {
    at::Tensor x = embed.index_select(0, at::tensor(ids, at::kLong));
    std::vector<at::Tensor> recorded;
    for (size_t l = 0; l < gate.size(); ++l) {
      at::Tensor a = at::sigmoid(x.matmul(gate[l].t())) * x.matmul(up[l].t());
      if (scale.defined()) a = a * scale[static_cast<int64_t>(l)];
      recorded.push_back(a[-1]);
      x = x + a.matmul(down[l].t());
    }
    return {at::stack(recorded), x[-1].matmul(embed.t())};
  }
};

/// The same model as a TorchScript module with the names of a Llama.
inline ::torch::jit::Module tiny_module(const TinyWeights& weights) {
  namespace jit = ::torch::jit;
  auto unit = std::make_shared<jit::CompilationUnit>();
  jit::Module model("Tiny", unit);
  model.register_parameter("embed", weights.embed, false);
  std::string code = "def forward(self, ids):\n  x = self.embed[ids]\n";
  for (size_t l = 0; l < weights.gate.size(); ++l) {
    const std::string n = std::to_string(l);
    jit::Module layer("Layer" + n, unit), mlp("Mlp" + n, unit);
    const auto linear = [&](const char* name, const at::Tensor& w) {
      jit::Module part(std::string(name) + n, unit);
      part.register_parameter("weight", w, false);
      mlp.register_module(name, part);
    };
    linear("gate_proj", weights.gate[l]);
    linear("up_proj", weights.up[l]);
    linear("down_proj", weights.down[l]);
    mlp.define(
        "def forward(self, x):\n"
        "  a = torch.sigmoid(torch.linear(x, self.gate_proj.weight)) * "
        "torch.linear(x, self.up_proj.weight)\n"
        "  return torch.linear(a, self.down_proj.weight)\n");
    layer.register_module("mlp", mlp);
    layer.define("def forward(self, x):\n  return x + self.mlp.forward(x)\n");
    model.register_module("layer" + n, layer);
    code += "  x = self.layer" + n + ".forward(x)\n";
  }
  code += "  return torch.matmul(x, self.embed.t())\n";
  model.define(code);
  return model;
}

/// The model in a file, removed at the end.
struct TinyFile {
  explicit TinyFile(uint64_t seed = 0) : weights(seed) {
    path = std::filesystem::temp_directory_path() /
           ("cna_tiny_" + std::to_string(seed) + "_" + std::to_string(::getpid()) + ".pt");
    tiny_module(weights).save(path.string());
  }
  ~TinyFile() { std::filesystem::remove(path); }
  TinyWeights weights;
  std::filesystem::path path;
};

}  // namespace cna::test
