#include "linears.hpp"

#include <algorithm>
#include <numeric>
#include <set>
#include <utility>

#include "cna/error.hpp"

namespace cna {

namespace jit = ::torch::jit;

std::optional<std::string> attribute_path(const jit::Value* value) {
  std::string path;
  const jit::Node* node = value->node();
  while (node->kind() == c10::prim::GetAttr) {
    path = node->s(c10::attr::name) + (path.empty() ? "" : "." + path);
    node = node->input()->node();
  }
  if (path.empty() || node->kind() != c10::prim::Param) return std::nullopt;
  return path;
}

namespace {

/// The object that holds the attribute of this path, and its name there; null where none does.
std::pair<c10::intrusive_ptr<c10::ivalue::Object>, std::string> holder(const jit::Module& module,
                                                                       const std::string& path) {
  c10::intrusive_ptr<c10::ivalue::Object> object = module._ivalue();
  for (size_t from = 0;;) {
    const size_t dot = path.find('.', from);
    const std::string name = path.substr(from, dot - from);
    if (!object->type()->hasAttribute(name)) return {};
    if (dot == std::string::npos) return {object, name};
    const c10::IValue value = object->getAttr(name);
    if (!value.isObject()) return {};
    object = value.toObject();
    from = dot + 1;
  }
}

}  // namespace

at::Tensor attribute(const jit::Module& module, const std::string& path) {
  const auto [object, name] = holder(module, path);
  if (!object) return {};
  const c10::IValue value = object->getAttr(name);
  return value.isTensor() ? value.toTensor() : at::Tensor();
}

void set_attribute(const jit::Module& module, const std::string& path, const at::Tensor& tensor) {
  const auto [object, name] = holder(module, path);
  if (object) object->setAttr(name, tensor);
}

namespace {

std::string without_suffix(const std::string& path, const std::string& suffix) {
  return path.ends_with(suffix) ? path.substr(0, path.size() - suffix.size()) : path;
}

/// Sees through casts and transposes to the weight that a matrix product uses.
std::optional<std::string> weight_path(jit::Value* value, bool& transposed) {
  while (value->node()->kind() == c10::aten::t || value->node()->kind() == c10::aten::transpose ||
         value->node()->kind() == c10::aten::to) {
    transposed ^= value->node()->kind() != c10::aten::to;
    value = value->node()->input(0);
  }
  return attribute_path(value);
}

std::optional<Linear> as_linear(const jit::Module& module, jit::Node* node) {
  const auto kind = node->kind();
  size_t input = 0, weight = 1;
  bool by_rows = true;  // weight is [hidden, width], as nn.Linear stores it
  if (kind == c10::aten::addmm) {
    input = 1, weight = 2, by_rows = false;
  } else if (kind == c10::aten::matmul || kind == c10::aten::mm) {
    by_rows = false;
  } else if (kind != c10::aten::linear) {
    return std::nullopt;
  }
  bool transposed = false;
  const auto path = weight_path(node->input(weight), transposed);
  if (!path) return std::nullopt;
  const at::Tensor w = attribute(module, *path);
  if (!w.defined() || w.dim() != 2) return std::nullopt;
  by_rows ^= transposed;
  Linear out{node,   without_suffix(*path, ".weight"), node->input(input),      input,
             node,   w.size(by_rows ? 1 : 0),          w.size(by_rows ? 0 : 1), w.scalar_type(),
             by_rows};
  // GPT-2 flattens [rows, tokens, width] for addmm: the tap goes before the view.
  const auto before = out.input->node()->kind();
  if (kind != c10::aten::linear && (before == c10::aten::view || before == c10::aten::reshape)) {
    out.taker = out.input->node();
    out.input_slot = 0;
    out.input = out.taker->input(0);
  }
  if (before == c10::aten::mul &&
      out.input->node()->input(0)->node()->kind() == c10::aten::masked_fill)
    out.masked = out.input->node()->input(0)->node();
  return out;
}

void collect(const jit::Module& module, jit::Block* block, std::vector<Linear>& out) {
  for (jit::Node* node : block->nodes()) {
    if (auto linear = as_linear(module, node)) out.push_back(*linear);
    for (jit::Block* inner : node->blocks()) collect(module, inner, out);
  }
}

size_t edit_distance(const std::string& a, const std::string& b) {
  std::vector<size_t> row(b.size() + 1);
  for (size_t j = 0; j <= b.size(); ++j) row[j] = j;
  for (size_t i = 1; i <= a.size(); ++i) {
    size_t diagonal = row[0];
    row[0] = i;
    for (size_t j = 1; j <= b.size(); ++j) {
      const size_t above = row[j];
      row[j] = std::min({row[j] + 1, row[j - 1] + 1, diagonal + (a[i - 1] != b[j - 1])});
      diagonal = above;
    }
  }
  return row[b.size()];
}

/// "layers.10.mlp" as "layers.*.mlp".
std::string numbers_as_stars(const std::string& path) {
  std::string out;
  for (size_t i = 0; i < path.size(); ++i) {
    out += path[i];
    const size_t end = path.find_first_not_of("0123456789", i + 1);
    if (path[i] != '.' || end == i + 1) continue;
    if (i + 1 == path.size()) break;
    out += '*';
    i = std::min(end, path.size()) - 1;
  }
  return out;
}

}  // namespace

std::vector<Linear> linears_of(const jit::Module& module, jit::Graph& graph) {
  std::vector<Linear> out;
  collect(module, graph.block(), out);
  return out;
}

std::string block_path(const std::string& path) {
  size_t end = std::string::npos;  // of the last whole part of digits that has a part below it
  for (size_t from = 0, to; (to = path.find('.', from)) != std::string::npos; from = to + 1) {
    const std::string part = path.substr(from, to - from);
    if (!part.empty() && part.size() < 8 &&
        part.find_first_not_of("0123456789") == std::string::npos)
      end = to;
  }
  return end == std::string::npos ? std::string() : path.substr(0, end);
}

std::vector<int64_t> layer_numbers(const std::vector<Linear>& sites) {
  std::vector<int64_t> out;
  for (const Linear& site : sites) {
    const std::string block = block_path(site.path);
    if (block.empty()) break;
    out.push_back(std::stoll(block.substr(block.rfind('.') + 1)));
  }
  if (out.empty() || out.size() < sites.size()) {
    out.resize(sites.size());
    std::iota(out.begin(), out.end(), int64_t{0});
  }
  std::set<int64_t> mixed;  // blocks with experts
  for (size_t i = 0; i < out.size(); ++i)
    if (sites[i].masked) mixed.insert(out[i]);
  for (size_t i = 1; i < out.size(); ++i) {
    if (out[i] > out[i - 1] || (out[i] == out[i - 1] && mixed.contains(out[i]))) continue;
    throw_value_error(
        "graft: expected one MLP in each block, in their order, got '{}' behind '{}'; pass a "
        "pattern that matches one of each block",
        sites[i].path, sites[i - 1].path);
  }
  return out;
}

std::string closest_names(const std::vector<Linear>& linears, const std::string& pattern) {
  std::set<std::string> names;
  for (const Linear& l : linears) names.insert(numbers_as_stars(l.path));
  std::vector<std::pair<size_t, std::string>> ranked;
  for (const auto& name : names) {
    const std::string last = name.substr(name.rfind('.') + 1);
    ranked.emplace_back(std::min(edit_distance(last, pattern), edit_distance(name, pattern)), name);
  }
  std::sort(ranked.begin(), ranked.end());
  std::string out;
  for (size_t i = 0; i < std::min<size_t>(6, ranked.size()); ++i)
    out += (i ? ", " : "") + ranked[i].second;
  return out.empty() ? "none" : out;
}

}  // namespace cna
