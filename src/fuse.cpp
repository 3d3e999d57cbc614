#include "fuse.hpp"

#include <ATen/ATen.h>
#include <torch/csrc/jit/ir/constants.h>
#include <torch/csrc/jit/passes/common_subexpression_elimination.h>
#include <torch/csrc/jit/passes/dead_code_elimination.h>
#include <torch/csrc/jit/passes/lower_tuples.h>

#include <map>
#include <set>
#include <utility>

#include "fuse_chains.hpp"
#include "give_back.hpp"
#include "graph_walk.hpp"
#include "linears.hpp"
#include "packed.hpp"
#include "product_form.hpp"
#include "products.hpp"

namespace cna {
namespace {

namespace jit = ::torch::jit;

/// Root attributes of weights that something else reads too, such as a head tied to the embedding.
constexpr const char* kPackedCopy = "cna_packed_";

/// Where a layer stands that is joined with others.
struct Place {
  const Joined* all;
  int64_t first, size;  // its features among theirs
};

/// By the path of each layer's weight.
std::map<std::string, Place> places_of(const std::vector<Joined>& groups) {
  std::map<std::string, Place> out;
  for (const Joined& group : groups) {
    int64_t first = 0;
    for (size_t i = 0; i < group.paths.size(); first += group.sizes[i++])
      out[group.paths[i]] = {&group, first, group.sizes[i]};
  }
  return out;
}

/// A weight [out, in], of one that may be stored [in, out].
at::Tensor by_rows(const at::Tensor& weight, bool turned) { return turned ? weight.t() : weight; }

/// Puts one packed weight where the first of joined layers has its own, and none for the others.
void pack_joined(const jit::Module& module, const std::vector<Joined>& groups,
                 const std::map<std::string, Place>& places, Precision precision, Fused& fused) {
  for (const Joined& group : groups) {
    std::vector<at::Tensor> weights;
    for (const std::string& path : group.paths) weights.push_back(attribute(module, path));
    const at::Tensor whole = pack(at::cat(weights), precision);
    weights.clear();
    for (const std::string& path : group.paths) {
      const at::Tensor stands = path == group.paths[0] ? whole : at::empty({0});
      fused.parts[stands.unsafeGetTensorImpl()] = {whole, places.at(path).first,
                                                   places.at(path).size};
      set_attribute(module, path, stands);
    }
    if ((&group - groups.data()) % 8 == 7) give_back_freed();
  }
}

/// Packs the weights of a graph's products, but those that something else reads: they get copies,
/// made later. By path: the attribute that holds the packed weight.
std::map<std::string, std::string> pack_weights(jit::Module& module, jit::Graph& graph,
                                                const std::map<std::string, Place>& joined,
                                                const std::set<const void*>& alone,
                                                Precision precision, Fused& fused) {
  std::map<std::string, std::string> out;
  std::map<std::pair<const void*, bool>, at::Tensor> packed;  // one that two paths share: once
  for (const Product& product : products_of(module, graph)) {
    if (out.contains(product.path) || joined.contains(product.path)) continue;
    const at::Tensor weight = attribute(module, product.path);
    if (!can_pack(weight)) continue;
    const void* place = weight.const_data_ptr();
    if (!alone.contains(place)) {
      const std::string name = kPackedCopy + std::to_string(out.size());
      const at::Tensor none = at::empty({0});
      if (!module.hasattr(name)) module.register_attribute(name, c10::TensorType::get(), none);
      set_attribute(module, name, none);
      fused.copies.push_back({product.path, name, product.turned});
      out[product.path] = name;
      continue;
    }
    at::Tensor& copy = packed[{place, product.turned}];
    if (!copy.defined()) copy = pack(by_rows(weight, product.turned), precision);
    out[product.path] = product.path;
    if (product.turned) fused.turned.insert(copy.unsafeGetTensorImpl());
    set_attribute(module, product.path, copy);  // at once: one plain weight less for each packed
    if (out.size() % 16 == 0) give_back_freed();
  }
  give_back_freed();
  return out;
}

/// An attribute of the module, read where the graph stands.
jit::Value* read(jit::Graph& graph, const std::string& path) {
  jit::Value* value = graph.inputs()[0];
  for (size_t from = 0, dot = 0; dot != std::string::npos; from = dot + 1) {
    dot = path.find('.', from);
    value = graph.insertGetAttr(value, path.substr(from, dot - from));
  }
  value->setType(c10::TensorType::get());
  return value;
}

void replace(const Product& product, jit::Node* by) {
  product.node->output()->replaceAllUsesWith(by->output());
  product.node->destroy();
}

void use_packed(const jit::Module& module, jit::Graph& graph,
                const std::map<std::string, std::string>& names) {
  each_product(module, graph, [&](const Product& from) {
    if (!names.contains(from.path)) return;
    const jit::WithInsertPoint point(from.node);
    const std::string& name = names.at(from.path);
    jit::Value* weight = name == from.path ? from.weight : read(graph, name);
    replace(from, insert_node(graph, "cna::packed_linear", {from.x, weight, from.bias}, from.node));
  });
}

/// One product for each group of joined layers, and views of it.
void use_joined(const jit::Module& module, jit::Graph& graph,
                const std::map<std::string, Place>& places) {
  std::map<const Joined*, jit::Value*> made;
  each_product(module, graph, [&](const Product& from) {
    const auto found = places.find(from.path);
    if (found == places.end()) return;
    const Place& place = found->second;
    const jit::WithInsertPoint point(from.node);
    jit::Value*& whole = made[place.all];
    if (!whole) {
      const at::Tensor& bias = place.all->bias;
      jit::Value* weight = read(graph, place.all->paths[0]);
      jit::Value* added =
          graph.insertConstant(bias.defined() ? c10::IValue(bias) : c10::IValue());  // None
      whole =
          insert_node(graph, "cna::packed_linear", {from.x, weight, added}, from.node)->output();
    }
    jit::Value* mine = graph.insert(c10::aten::narrow, {whole, -1, place.first, place.size});
    // Its features lie apart from the next token's: what cannot be a view is copied. The
    // old one goes with what is dead: it may be where the walk stands next.
    for (const jit::Use& use : std::vector<jit::Use>(from.node->output()->uses())) {
      if (use.user->kind() != c10::aten::view) continue;
      jit::Node* node = insert_node(graph, "aten::reshape", use.user->inputs(), use.user);
      use.user->output()->replaceAllUsesWith(node->output());
    }
    replace(from, mine->node());
  });
}

void use_weights_first(const jit::Module& module, jit::Graph& graph) {
  each_product(module, graph, [&](const Product& from) {
    if (!has_form(ProductForm::weights_first, attribute(module, from.path))) return;
    const jit::WithInsertPoint point(from.node);
    jit::Value* weight =
        from.turned ? graph.insert(c10::aten::t, {from.weight}) : from.weight;  // [out, in]
    replace(from, insert_node(graph, "cna::weights_first_linear", {from.x, weight, from.bias},
                              from.node));
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

ProductForm fastest_form(const jit::Module& module, const Grafted& graph) {
  std::vector<at::Tensor> weights;
  for (const Product& product : products_of(module, *graph.forward)) {
    const at::Tensor weight = attribute(module, product.path);
    if (has_form(ProductForm::weights_first, weight))
      weights.push_back(by_rows(weight, product.turned));
  }
  return fastest_form(weights);
}

Fused fuse(jit::Module& module, const Grafted& graph, Precision precision, ProductForm form) {
  Fused out{graph.forward->copy(), graph.record->copy()};
  std::map<std::string, std::string> names;
  std::vector<Joined> groups;
  std::map<std::string, Place> places;
  for (const auto& part : {out.forward, out.record}) {
    jit::LowerSimpleTuples(part->block());
    jit::EliminateDeadCode(part->block());  // what lies in a tuple counts as written to
    jit::EliminateCommonSubexpression(part);
  }
  if (form == ProductForm::packed) {
    const std::set<const void*> alone = read_by_products_only(module, *out.forward);
    groups = joinable(module, out.forward, alone);
    places = places_of(groups);
    pack_joined(module, groups, places, precision, out);
    names = pack_weights(module, *out.forward, places, alone, precision, out);
  }
  for (const auto& part : {out.forward, out.record}) {
    use_joined(module, *part, places);
    use_packed(module, *part, names);
    if (form == ProductForm::weights_first) use_weights_first(module, *part);
    for (const PackedCopy& copy : out.copies) names.erase(copy.path);  // a recording needs none
    if (graph.dtype == at::kFloat) fuse_chains(*part);
    jit::EliminateDeadCode(part->block());
    part->lint();
  }
  return out;
}

void make(const PackedCopy& copy, const jit::Module& module, Precision precision) {
  const at::Tensor weight = attribute(module, copy.path);
  set_attribute(module, copy.name, pack(by_rows(weight, copy.turned), precision));
}

bool is_packed_copy(const std::string& name) { return name.starts_with(kPackedCopy); }

}  // namespace cna
