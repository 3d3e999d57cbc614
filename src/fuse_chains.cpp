#include "fuse_chains.hpp"

#include <torch/csrc/jit/ir/constants.h>

#include <initializer_list>
#include <limits>
#include <optional>
#include <utility>
#include <vector>

#include "graph_walk.hpp"

namespace cna {
namespace {

namespace jit = ::torch::jit;

jit::Node* made_by(jit::Value* value, c10::Symbol kind) {
  jit::Node* node = value->node();
  return node->kind() == kind ? node : nullptr;
}

std::optional<int64_t> whole(const jit::Value* value) {
  const auto constant = jit::toIValue(value);
  return constant && constant->isInt() ? std::optional(constant->toInt()) : std::nullopt;
}

std::optional<double> number(const jit::Value* value) {
  const auto constant = jit::toIValue(value);
  if (constant && constant->isTensor() && constant->toTensor().numel() == 1)
    return constant->toTensor().item<double>();  // as tracing writes many numbers
  if (!constant || !constant->isScalar()) return std::nullopt;
  return constant->toScalar().toDouble();
}

bool is_last_dim(const jit::Value* dims) {
  if (const auto constant = jit::toIValue(dims))
    return constant->isIntList() && constant->toIntVector() == std::vector<int64_t>{-1};
  const jit::Node* list = dims->node();
  return list->kind() == c10::prim::ListConstruct && list->inputs().size() == 1 &&
         whole(list->input(0)) == -1;
}

/// Puts a new operator where `node` stands, for all who read it.
void replace(jit::Graph& graph, jit::Node* node, const char* name,
             std::initializer_list<jit::Value*> inputs) {
  node->output()->replaceAllUsesWith(insert_node(graph, name, inputs, node)->output());
}

/// A value behind casts to float32, which do nothing in a graph of float32.
jit::Value* uncast(jit::Value* value) {
  while (value->node()->kind() == c10::aten::to && value->node()->inputs().size() == 5 &&
         whole(value->node()->input(1)) == static_cast<int64_t>(at::kFloat))
    value = value->node()->input(0);
  return value;
}

/// x and eps of x * rsqrt(mean(x^2, -1) + eps); none for another value.
std::optional<std::pair<jit::Value*, double>> normed(jit::Value* value) {
  jit::Node* product = made_by(value, c10::aten::mul);
  if (!product) return std::nullopt;
  jit::Node* root = made_by(product->input(1), c10::aten::rsqrt);
  jit::Node* sum = root ? made_by(root->input(0), c10::aten::add) : nullptr;
  jit::Node* mean = sum ? made_by(sum->input(0), c10::aten::mean) : nullptr;
  jit::Node* square = mean ? made_by(mean->input(0), c10::aten::pow) : nullptr;
  if (!square || square->input(0) != product->input(0) || number(square->input(1)) != 2.0 ||
      mean->inputs().size() != 4 || !is_last_dim(mean->input(1)) || number(sum->input(2)) != 1.0)
    return std::nullopt;
  const auto eps = number(sum->input(1));
  if (!eps) return std::nullopt;
  return std::pair(product->input(0), *eps);
}

/// Whether this is half of the size of x's last dimension, as tracing writes it.
bool is_half(jit::Value* value, const jit::Value* x) {
  jit::Node* as_int = made_by(value, c10::aten::Int);
  jit::Node* half = as_int ? made_by(as_int->input(0), c10::aten::floor_divide) : nullptr;
  jit::Node* tensor = half ? made_by(half->input(0), c10::prim::NumToTensor) : nullptr;
  jit::Node* size = tensor ? made_by(tensor->input(0), c10::aten::size) : nullptr;
  if (!size || size->inputs().size() != 2 || size->input(0) != x) return false;
  const auto dim = whole(size->input(1));
  return number(half->input(1)) == 2.0 && (dim == 3 || dim == -1);
}

/// Whether `value` is cat(-x[..., half:], x[..., :half]).
bool is_rotated(jit::Value* value, const jit::Value* x) {
  jit::Node* cat = made_by(value, c10::aten::cat);
  jit::Node* list = cat ? made_by(cat->input(0), c10::prim::ListConstruct) : nullptr;
  if (!list || list->inputs().size() != 2) return false;
  const auto along = whole(cat->input(1));
  jit::Node* neg = made_by(list->input(0), c10::aten::neg);
  jit::Node* second = neg ? made_by(neg->input(0), c10::aten::slice) : nullptr;
  jit::Node* first = made_by(list->input(1), c10::aten::slice);
  if (!first || !second || (along != -1 && along != 3)) return false;
  for (jit::Node* part : {first, second}) {
    const auto dim = whole(part->input(1));
    if (part->input(0) != x || (dim != 3 && dim != -1) || whole(part->input(4)) != 1) return false;
  }
  return whole(first->input(2)) == 0 && is_half(first->input(3), x) &&
         is_half(second->input(2), x) &&
         whole(second->input(3)) == std::numeric_limits<int64_t>::max();
}

/// The attention that a branch gives back; none where it is dropped out, causal or grouped itself.
jit::Node* only_attention(jit::Block* block) {
  if (block->outputs().size() != 1) return nullptr;
  jit::Node* node = made_by(block->outputs()[0], c10::aten::scaled_dot_product_attention);
  if (!node || node->inputs().size() != 8 || number(node->input(4)) != 0.0) return nullptr;
  for (const size_t flag : {5, 7}) {
    const auto constant = jit::toIValue(node->input(flag));
    if (!constant || !constant->isBool() || constant->toBool()) return nullptr;
  }
  return node;
}

/// Whether each head of `whole` stands in `value` as often as a group needs it.
bool is_repeated(jit::Value* value, const jit::Value* whole_heads) {
  jit::Node* repeat = made_by(value, c10::aten::repeat_interleave);
  return repeat && repeat->inputs().size() == 4 && repeat->input(0) == whole_heads &&
         whole(repeat->input(2)) == 1;
}

bool read_once(const jit::Value* value) { return value->uses().size() == 1; }

}  // namespace

void fuse_rms_norms(jit::Graph& graph) {
  each_node(graph.block(), [&](jit::Node* node) {
    if (node->kind() != c10::aten::mul || node->inputs().size() != 2) return;
    for (const size_t side : {0, 1}) {
      jit::Value* gain = node->input(side);
      const auto found = normed(uncast(node->input(1 - side)));
      if (!found || gain->node()->kind() != c10::prim::GetAttr) continue;
      jit::WithInsertPoint point(node);
      replace(graph, node, "cna::rms_norm",
              {uncast(found->first), gain, graph.insertConstant(found->second)});
      return;
    }
  });
}

void fuse_rotary(jit::Graph& graph) {
  each_node(graph.block(), [&](jit::Node* node) {
    if (node->kind() != c10::aten::add || node->inputs().size() != 3 ||
        number(node->input(2)) != 1.0)
      return;
    jit::Node* straight = made_by(node->input(0), c10::aten::mul);
    jit::Node* turned = made_by(node->input(1), c10::aten::mul);
    if (!straight || !turned || !is_rotated(turned->input(0), straight->input(0))) return;
    replace(graph, node, "cna::rotary", {straight->input(0), straight->input(1), turned->input(1)});
  });
}

void fuse_cache_writes(jit::Graph& graph) {
  const auto rotary = c10::Symbol::fromQualString("cna::rotary");
  each_node(graph.block(), [&](jit::Node* node) {
    if (node->kind() != c10::aten::index_copy_ || whole(node->input(1)) != 2) return;
    jit::Value *cache = node->input(0), *places = node->input(2), *x = node->input(3);
    const jit::Node* turned = read_once(x) ? made_by(x, rotary) : nullptr;
    if (turned)
      replace(graph, node, "cna::write_rotary",
              {cache, places, turned->input(0), turned->input(1), turned->input(2)});
    else
      replace(graph, node, "cna::write_cache", {cache, places, x});
    node->destroy();
  });
}

void fuse_attention(jit::Graph& graph) {
  each_node(graph.block(), [&](jit::Node* node) {
    if (node->kind() != c10::prim::If || node->outputs().size() != 1) return;
    jit::Node* one = only_attention(node->blocks()[0]);
    const auto returned = node->blocks()[1]->outputs();
    jit::Node* inner = returned.size() == 1 ? made_by(returned[0], c10::prim::If) : nullptr;
    jit::Node* many = inner ? only_attention(inner->blocks()[1]) : nullptr;
    if (!one || !many) return;
    jit::Value *q = one->input(0), *k = one->input(1), *v = one->input(2);
    if (!is_repeated(many->input(1), k) || !is_repeated(many->input(2), v) || many->input(0) != q ||
        many->input(3) != one->input(3) || many->input(6) != one->input(6))
      return;
    replace(graph, node, "cna::attend", {q, k, v, one->input(3), one->input(6)});
  });
}

void activate_in_place(jit::Graph& graph) {
  const auto packed = c10::Symbol::fromQualString("cna::packed_linear");
  const auto weights_first = c10::Symbol::fromQualString("cna::weights_first_linear");
  std::vector<std::pair<jit::Node*, jit::Node*>> found;  // a gate's SiLU and its product
  each_node(graph.block(), [&](jit::Node* node) {
    if (node->kind() != c10::aten::silu || !read_once(node->input(0)) || !read_once(node->output()))
      return;
    jit::Node* user = node->output()->uses()[0].user;
    const auto kind = node->input(0)->node()->kind();
    if (user->kind() != c10::aten::mul || user->input(0) != node->output() ||
        (kind != packed && kind != weights_first && kind != c10::aten::linear))
      return;
    found.emplace_back(node, user);
  });
  for (const auto& [silu, times] : found) {
    replace(graph, times, "cna::silu_times", {silu->input(0), times->input(1)});
    times->destroy();
    silu->destroy();
  }
}

}  // namespace cna
