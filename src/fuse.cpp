#include "fuse.hpp"

#include <torch/csrc/jit/ir/constants.h>
#include <torch/csrc/jit/passes/dead_code_elimination.h>
#include <torch/csrc/jit/passes/lower_tuples.h>

#include <map>
#include <optional>
#include <set>
#include <utility>

#include "fuse_chains.hpp"
#include "give_back.hpp"
#include "graph_walk.hpp"
#include "linears.hpp"
#include "packed.hpp"

namespace cna {
namespace {

namespace jit = ::torch::jit;

/// Root attributes of weights that something else reads too, such as a head tied to the embedding.
constexpr const char* kPackedCopy = "cna_packed_";

/// A linear layer of the graph: x times the weight [out, in], or [in, out] where `turned`, plus a
/// bias.
struct Product {
  jit::Value *x, *weight, *bias;
  std::string path;  // of the weight
  bool turned;
};

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

std::optional<Product> product_of(const jit::Module& module, jit::Node* node) {
  const size_t slot = weight_slot(node);
  const auto path = slot ? attribute_path(node->input(slot)) : std::nullopt;
  if (!path) return std::nullopt;
  if (slot == 1) return Product{node->input(0), node->input(1), node->input(2), *path, false};
  const auto bias = attribute_path(node->input(0));  // GPT-2's: bias + x * weight
  if (!bias || attribute(module, *bias).dim() != 1) return std::nullopt;
  return Product{node->input(1), node->input(2), node->input(0), *path, true};
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
      (product_of(module, use.user) && use.offset == weight_slot(use.user) ? products : others)
          .insert(tensor.const_data_ptr());
  });
  for (const void* place : others) products.erase(place);
  return products;
}

/// Packs the weights of a graph's products, but those that something else reads: they get copies,
/// made later. By path: the attribute that holds the packed weight.
std::map<std::string, std::string> pack_weights(jit::Module& module, jit::Graph& graph,
                                                Precision precision, Fused& fused) {
  const std::set<const void*> alone = read_by_products_only(module, graph);
  std::map<std::string, std::string> out;
  std::map<std::pair<const void*, bool>, at::Tensor> packed;  // one that two paths share: once
  each_node(graph.block(), [&](jit::Node* node) {
    const auto product = product_of(module, node);
    if (!product || out.contains(product->path)) return;
    const at::Tensor weight = attribute(module, product->path);
    if (!can_pack(weight)) return;
    const void* place = weight.const_data_ptr();
    if (!alone.contains(place)) {
      const std::string name = kPackedCopy + std::to_string(out.size());
      const at::Tensor none = at::empty({0});
      if (!module.hasattr(name)) module.register_attribute(name, c10::TensorType::get(), none);
      set_attribute(module, name, none);
      fused.copies.push_back({product->path, name, product->turned});
      out[product->path] = name;
      return;
    }
    at::Tensor& copy = packed[{place, product->turned}];
    if (!copy.defined()) copy = pack(product->turned ? weight.t() : weight, precision);
    out[product->path] = product->path;
    if (product->turned) fused.turned.insert(copy.unsafeGetTensorImpl());
    set_attribute(module, product->path, copy);  // at once: one plain weight less for each packed
    if (out.size() % 16 == 0) give_back_freed();
  });
  give_back_freed();
  return out;
}

void use_packed(const jit::Module& module, jit::Graph& graph,
                const std::map<std::string, std::string>& names) {
  each_node(graph.block(), [&](jit::Node* node) {
    const auto from = product_of(module, node);
    if (!from || !names.contains(from->path)) return;
    const std::string& name = names.at(from->path);
    jit::WithInsertPoint point(node);
    jit::Value* weight = from->weight;
    if (name != from->path) {
      weight = graph.insertGetAttr(graph.inputs()[0], name);
      weight->setType(c10::TensorType::get());
    }
    jit::Node* product = graph.create(c10::Symbol::fromQualString("cna::packed_linear"),
                                      {from->x, weight, from->bias}, 1);
    product->output()->setType(c10::TensorType::get());
    product->insertBefore(node);
    node->output()->replaceAllUsesWith(product->output());
    node->destroy();
  });
}

void fuse_chains(jit::Graph& graph) {
  fuse_rms_norms(graph);
  fuse_rotary(graph);
  fuse_cache_writes(graph);
  fuse_attention(graph);
  activate_in_place(graph);
}

}  // namespace

Fused fuse(jit::Module& module, const Grafted& graph, Precision precision) {
  Fused out{graph.forward->copy(), graph.record->copy()};
  std::map<std::string, std::string> names = pack_weights(module, *out.forward, precision, out);
  for (jit::Graph* part : {out.forward.get(), out.record.get()}) {
    jit::LowerSimpleTuples(part->block());
    use_packed(module, *part, names);
    for (const PackedCopy& copy : out.copies) names.erase(copy.path);  // a recording needs none
    if (graph.dtype == at::kFloat) fuse_chains(*part);
    jit::EliminateDeadCode(part->block());
    part->lint();
  }
  return out;
}

void make(const PackedCopy& copy, const jit::Module& module, Precision precision) {
  const at::Tensor weight = attribute(module, copy.path);
  set_attribute(module, copy.name, pack(copy.turned ? weight.t() : weight, precision));
}

bool is_packed_copy(const std::string& name) { return name.starts_with(kPackedCopy); }

}  // namespace cna
