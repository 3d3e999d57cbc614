/// The products of a graph: where it multiplies by the weights of the module's linear layers.
/// Private to the library.
#pragma once

#include <torch/script.h>

#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "graph_walk.hpp"

namespace cna {

/// A linear layer of a graph: x times the weight [out, in], or [in, out] where `turned`, plus a
/// bias.
struct Product {
  ::torch::jit::Node* node;
  ::torch::jit::Value *x, *weight, *bias;
  std::string path;  ///< of the weight
  bool turned;
};

/// The product that a node is, if it is one.
[[nodiscard]] std::optional<Product> product_of(const ::torch::jit::Module& module,
                                                ::torch::jit::Node* node);

/// Calls `visit` with each product of a graph, in its order; the visit may replace it.
template <typename Visit>
void each_product(const ::torch::jit::Module& module, ::torch::jit::Graph& graph,
                  const Visit& visit) {
  each_node(graph.block(), [&](::torch::jit::Node* node) {
    if (const auto product = product_of(module, node)) visit(*product);
  });
}

/// All products of a graph in its order, those in control flow included.
[[nodiscard]] std::vector<Product> products_of(const ::torch::jit::Module& module,
                                               ::torch::jit::Graph& graph);

/// Where the weights of products lie in memory, less those that anything else reads.
[[nodiscard]] std::set<const void*> read_by_products_only(const ::torch::jit::Module& module,
                                                          ::torch::jit::Graph& graph);

/// Layers whose products are one: query, key and value of the same tokens. The weight of all
/// [sum of out, in] stands where the first layer's stood.
struct Joined {
  std::vector<std::string> paths;  ///< of the layers' weights, in their order
  std::vector<int64_t> sizes;      ///< features that each gives out
  at::Tensor bias;                 ///< of all, [sum of out]; undefined where they have none
};

/// Which layers may be one: three or more of values that nothing writes into, each split into heads
/// at once. Not a gate and its up projection: with what follows them, a step of 1 or 32 rows takes
/// 7 or 2 % less as one, but one of 640 rows 9 % more (docs/benchmarks.md).
/// @param alone  weights that nothing else reads
[[nodiscard]] std::vector<Joined> joinable(const ::torch::jit::Module& module,
                                           const std::shared_ptr<::torch::jit::Graph>& graph,
                                           const std::set<const void*>& alone);

}  // namespace cna
