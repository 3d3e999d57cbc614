#include "fuse.hpp"

#include <torch/csrc/jit/ir/constants.h>
#if __has_include(<malloc.h>)
#include <malloc.h>  // malloc_trim
#endif
#include <torch/csrc/jit/passes/dead_code_elimination.h>
#include <torch/csrc/jit/passes/lower_tuples.h>

#include <map>
#include <optional>
#include <set>
#include <utility>

#include "fuse_chains.hpp"
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

/// Plain weights that were dropped lie between packed ones: the C library keeps them, some 240 MiB
/// of SmolLM2-135M, until it is asked.
void give_back_freed() {
#if defined(__GLIBC__)
  malloc_trim(0);
#endif
}

/// Packs the weights of a graph's products. By path: the attribute that holds the packed weight.
std::map<std::string, std::string> pack_weights(jit::Module& module, jit::Graph& graph,
                                                Precision precision,
                                                std::set<const c10::TensorImpl*>& turned) {
  const std::set<const void*> alone = read_by_products_only(module, graph);
  std::map<std::string, std::string> out;
  std::map<std::pair<const void*, bool>, at::Tensor> packed;  // one that two paths share: once
  each_node(graph.block(), [&](jit::Node* node) {
    const auto product = product_of(module, node);
    if (!product || out.contains(product->path)) return;
    const at::Tensor weight = attribute(module, product->path);
    if (!can_pack(weight)) return;
    const void* place = weight.const_data_ptr();
    at::Tensor& copy = packed[{place, product->turned}];
    if (!copy.defined()) copy = pack(product->turned ? weight.t() : weight, precision);
    std::string name = product->path;
    if (!alone.contains(place)) {
      name = kPackedCopy + std::to_string(out.size());
      if (!module.hasattr(name)) module.register_attribute(name, c10::TensorType::get(), copy);
    }
    out[product->path] = name;
    if (product->turned) turned.insert(copy.unsafeGetTensorImpl());
    set_attribute(module, name, copy);  // at once: one plain weight less for each packed one
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
  fuse_attention(graph);
  activate_in_place(graph);
}

}  // namespace

Fused fuse(jit::Module& module, const Grafted& graph, Precision precision) {
  Fused out{graph.forward->copy(), graph.record->copy()};
  const std::map<std::string, std::string> names =
      pack_weights(module, *out.forward, precision, out.turned);
  for (jit::Graph* part : {out.forward.get(), out.record.get()}) {
    jit::LowerSimpleTuples(part->block());
    use_packed(module, *part, names);
    if (graph.dtype == at::kFloat) fuse_chains(*part);
    jit::EliminateDeadCode(part->block());
    part->lint();
  }
  return out;
}

bool is_packed_copy(const std::string& name) { return name.starts_with(kPackedCopy); }

}  // namespace cna
