#include "fuse.hpp"

#include <torch/csrc/jit/ir/constants.h>
#include <torch/csrc/jit/passes/dead_code_elimination.h>
#include <torch/csrc/jit/passes/lower_tuples.h>

#include <map>
#include <optional>
#include <set>

#include "fuse_chains.hpp"
#include "graph_walk.hpp"
#include "linears.hpp"
#include "packed.hpp"

namespace cna {
namespace {

namespace jit = ::torch::jit;

/// Root attributes of weights that something else reads too, such as a head tied to the embedding.
constexpr const char* kPackedCopy = "cna_packed_";

/// The weight of a linear layer, as a path; none for other nodes.
std::optional<std::string> weight_of(const jit::Node* node) {
  if (node->kind() != c10::aten::linear) return std::nullopt;
  return attribute_path(node->input(1));
}

/// Where the weights of linear layers lie in memory, less those that anything else reads.
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
      (use.user->kind() == c10::aten::linear && use.offset == 1 ? products : others)
          .insert(tensor.const_data_ptr());
  });
  for (const void* place : others) products.erase(place);
  return products;
}

/// Packs the weights of a graph's products. By path: the attribute that holds the packed weight.
std::map<std::string, std::string> pack_weights(jit::Module& module, jit::Graph& graph,
                                                Precision precision) {
  const std::set<const void*> alone = read_by_products_only(module, graph);
  std::map<std::string, std::string> out;
  std::map<const void*, at::Tensor> packed;  // one that two paths share is packed once
  each_node(graph.block(), [&](jit::Node* node) {
    const auto path = weight_of(node);
    if (!path || out.contains(*path)) return;
    const at::Tensor weight = attribute(module, *path);
    if (!can_pack(weight)) return;
    const void* place = weight.const_data_ptr();
    at::Tensor& copy = packed[place];
    if (!copy.defined()) copy = pack(weight, precision);
    std::string name = *path;
    if (!alone.contains(place)) {
      name = kPackedCopy + std::to_string(out.size());
      if (!module.hasattr(name)) module.register_attribute(name, c10::TensorType::get(), copy);
    }
    out[*path] = name;
    set_attribute(module, name, copy);  // at once: one plain weight less for each packed one
  });
  return out;
}

void use_packed(jit::Graph& graph, const std::map<std::string, std::string>& names) {
  each_node(graph.block(), [&](jit::Node* node) {
    const auto path = weight_of(node);
    if (!path || !names.contains(*path)) return;
    const std::string& name = names.at(*path);
    jit::WithInsertPoint point(node);
    jit::Value* weight = node->input(1);
    if (name != *path) {
      weight = graph.insertGetAttr(graph.inputs()[0], name);
      weight->setType(c10::TensorType::get());
    }
    jit::Node* product = graph.create(c10::Symbol::fromQualString("cna::packed_linear"),
                                      {node->input(0), weight, node->input(2)}, 1);
    product->output()->setType(c10::TensorType::get());
    product->insertBefore(node);
    node->output()->replaceAllUsesWith(product->output());
    node->destroy();
  });
}

void fuse_chains(jit::Graph& graph) {
  fuse_rms_norms(graph);
  fuse_rotary(graph);
  fuse_attention(graph);
  activate_in_place(graph);
}

}  // namespace

Fused fuse(jit::Module& module, const Grafted& graph, Precision precision) {
  Fused out{graph.forward->copy(), graph.record->copy()};
  const std::map<std::string, std::string> names = pack_weights(module, *out.forward, precision);
  for (jit::Graph* part : {out.forward.get(), out.record.get()}) {
    jit::LowerSimpleTuples(part->block());
    use_packed(*part, names);
    if (graph.dtype == at::kFloat) fuse_chains(*part);
    jit::EliminateDeadCode(part->block());
    part->lint();
  }
  return out;
}

bool is_packed_copy(const std::string& name) { return name.starts_with(kPackedCopy); }

}  // namespace cna
