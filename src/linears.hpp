/// The linear layers of a traced graph: matrix products with a weight of the module.
#pragma once

#include <torch/script.h>

#include <optional>
#include <string>
#include <vector>

namespace cna {

/// A linear of the graph: its node, where its weight hangs, and its input as [rows, tokens, width].
struct Linear {
  ::torch::jit::Node* node;
  std::string path;            // module path, without ".weight"
  ::torch::jit::Value* input;  // value before any flattening
  size_t input_slot;           // which input of which node takes `input`
  ::torch::jit::Node* taker;
  int64_t width;
  int64_t hidden;
  at::ScalarType dtype;
  bool by_rows;  // the weight is [hidden, width], as nn.Linear stores it
  /// All experts of a layer: where a graph sets those to 0 that do not run, before it takes the
  /// rest times their routing weights (python/cna/hosts/traced_experts.py). Null: no experts.
  ::torch::jit::Node* masked = nullptr;
};

/// A tensor of the module by its attributes' path; undefined where the path names none.
[[nodiscard]] at::Tensor attribute(const ::torch::jit::Module& module, const std::string& path);
/// Puts a tensor in the place of one that is there.
void set_attribute(const ::torch::jit::Module& module, const std::string& path,
                   const at::Tensor& tensor);

/// Path of a value read from the module by attributes: "model.layers.0.mlp.down_proj.weight".
[[nodiscard]] std::optional<std::string> attribute_path(const ::torch::jit::Value* value);

/// All linears of an inlined graph, in its order, control flow included.
[[nodiscard]] std::vector<Linear> linears_of(const ::torch::jit::Module& module,
                                             ::torch::jit::Graph& graph);

/// "model.layers.3" of "model.layers.3.mlp.down_proj"; empty where no part above it is a number.
[[nodiscard]] std::string block_path(const std::string& path);

/// The number of each site's block in the model: the last number above it in its path. Where no
/// path has one, sites are counted. Several sites of one block follow the first, its experts.
/// @throws ValueError where two dense MLPs lie in one block, or blocks do not ascend.
[[nodiscard]] std::vector<int64_t> layer_numbers(const std::vector<Linear>& sites);

/// Up to six distinct module names, layer numbers starred, nearest to the pattern first.
[[nodiscard]] std::string closest_names(const std::vector<Linear>& linears,
                                        const std::string& pattern);

}  // namespace cna
