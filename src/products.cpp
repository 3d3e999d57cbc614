#include "products.hpp"

#include <ATen/ATen.h>
#include <torch/csrc/jit/ir/alias_analysis.h>
#include <torch/csrc/jit/ir/constants.h>

#include <algorithm>
#include <map>
#include <utility>

#include "linears.hpp"
#include "packed.hpp"

namespace cna {
namespace {

namespace jit = ::torch::jit;

bool is_one(const jit::Value* value) {
  const auto constant = jit::toIValue(value);
  return constant && constant->isScalar() && constant->toScalar().toDouble() == 1.0;
}

/// Which input of a node is a layer's weight; 0: it is no linear layer.
size_t weight_slot(const jit::Node* node) {
  if (node->kind() == c10::aten::linear) return 1;
  return node->kind() == c10::aten::addmm && is_one(node->inputs()[3]) && is_one(node->inputs()[4])
             ? 2
             : 0;
}

bool is_none(const jit::Value* value) {
  const auto constant = jit::toIValue(value);
  return constant && constant->isNone();
}

bool is_view(const jit::Use& use) { return use.user->kind() == c10::aten::view; }

/// Whether all who read a product split its features into heads, and view those no more.
bool is_split_at_once(const Product& product) {
  const auto& uses = product.node->output()->uses();
  return std::all_of(uses.begin(), uses.end(), [](const jit::Use& use) {
    if (use.user->kind() == c10::aten::size) return true;
    if (!is_view(use) || use.offset != 0) return false;
    const auto& next = use.user->output()->uses();
    return std::none_of(next.begin(), next.end(), is_view);
  });
}

/// The biases of all [sum of out]; undefined where they have none. None: some have one.
std::optional<at::Tensor> biases_of(const jit::Module& module, const std::vector<Product>& all) {
  std::vector<at::Tensor> biases;
  for (const Product& product : all) {
    if (is_none(product.bias)) continue;
    const auto path = attribute_path(product.bias);
    const at::Tensor bias = path ? attribute(module, *path) : at::Tensor();
    if (!bias.defined() || bias.dim() != 1 ||
        bias.size(0) != attribute(module, product.path).size(0))
      return std::nullopt;
    biases.push_back(bias);
  }
  if (biases.empty()) return at::Tensor();
  if (biases.size() != all.size()) return std::nullopt;
  return at::cat(biases).detach();  // a constant of the graph
}

}  // namespace

std::optional<Product> product_of(const jit::Module& module, jit::Node* node) {
  const size_t slot = weight_slot(node);
  const auto path = slot ? attribute_path(node->input(slot)) : std::nullopt;
  if (!path) return std::nullopt;
  const auto bias = attribute_path(node->input(slot == 1 ? 2 : 0));
  const at::Tensor added = bias ? attribute(module, *bias) : at::Tensor();
  if (added.defined() && added.numel() == 1) return std::nullopt;  // one for all features
  if (slot == 1) return Product{node, node->input(0), node->input(1), node->input(2), *path, false};
  if (!added.defined() || added.dim() != 1) return std::nullopt;  // GPT-2's: bias + x * weight
  return Product{node, node->input(1), node->input(2), node->input(0), *path, true};
}

std::vector<Product> products_of(const jit::Module& module, jit::Graph& graph) {
  std::vector<Product> out;
  each_product(module, graph, [&](const Product& product) { out.push_back(product); });
  return out;
}

std::set<const void*> read_by_products_only(const jit::Module& module, jit::Graph& graph) {
  std::set<const void*> products, others;
  each_node(graph.block(), [&](jit::Node* node) {
    if (node->kind() != c10::prim::GetAttr ||
        !node->output()->type()->isSubtypeOf(*c10::TensorType::get()))
      return;
    const auto path = attribute_path(node->output());
    const at::Tensor tensor = path ? attribute(module, *path) : at::Tensor();
    if (!tensor.defined() || !tensor.has_storage()) return;
    for (const jit::Use& use : node->output()->uses())
      (product_of(module, use.user) && use.offset == weight_slot(use.user) ? products : others)
          .insert(tensor.const_data_ptr());
  });
  for (const void* place : others) products.erase(place);
  return products;
}

std::vector<Joined> joinable(const jit::Module& module, const std::shared_ptr<jit::Graph>& graph,
                             const std::set<const void*>& alone) {
  const std::vector<Product> products = products_of(module, *graph);
  std::map<const void*, int64_t> readers;
  for (const Product& p : products) {
    const at::Tensor weight = attribute(module, p.path);
    if (can_pack(weight)) ++readers[weight.const_data_ptr()];
  }

  const jit::AliasDb aliases(graph);
  std::vector<std::vector<Product>> groups;
  std::map<std::pair<const jit::Value*, const jit::Block*>, size_t> group_of;
  for (const Product& p : products) {
    const at::Tensor weight = attribute(module, p.path);
    if (p.turned || !can_pack(weight) || !alone.contains(weight.const_data_ptr()) ||
        readers[weight.const_data_ptr()] != 1 || !is_split_at_once(p) || aliases.hasWriters(p.x))
      continue;
    const auto [found, added] = group_of.try_emplace({p.x, p.node->owningBlock()}, groups.size());
    if (added) groups.emplace_back();
    groups[found->second].push_back(p);
  }

  std::vector<Joined> out;
  for (const std::vector<Product>& group : groups) {
    const auto bias = group.size() > 2 ? biases_of(module, group) : std::nullopt;
    if (!bias) continue;
    Joined joined{{}, {}, *bias};
    for (const Product& p : group) {
      joined.paths.push_back(p.path);
      joined.sizes.push_back(attribute(module, p.path).size(0));
    }
    out.push_back(std::move(joined));
  }
  return out;
}

}  // namespace cna
