#include "cna/torch/graft.hpp"

#include <torch/csrc/jit/ir/constants.h>
#include <torch/csrc/jit/passes/dead_code_elimination.h>
#include <torch/csrc/jit/passes/inliner.h>

#include <algorithm>
#include <map>
#include <optional>
#include <regex>
#include <set>
#include <utility>
#include <vector>

#include "cna/error.hpp"
#include "graph_walk.hpp"
#include "linears.hpp"
#include "taps_handle.hpp"

namespace cna {
namespace {

namespace jit = ::torch::jit;

constexpr const char* kTap = "cna::tap";
constexpr const char* kTapPart = "cna::tap_part";

bool is_tap(const jit::Node* node) {
  return node->kind() == c10::Symbol::fromQualString(kTap) ||
         node->kind() == c10::Symbol::fromQualString(kTapPart);
}

jit::Node* insert_tap(jit::Graph& graph, jit::Value* value, jit::Value* taps, int64_t slot,
                      jit::Node* before) {
  jit::WithInsertPoint point(before);
  return insert_node(graph, kTap, {value, taps, graph.insertConstant(slot)}, before);
}

/// The tap of a part of a layer's neurons, `first` to `first + site.width` of `features`.
jit::Node* insert_part_tap(jit::Graph& graph, const Linear& site, jit::Value* taps, int64_t slot,
                           int64_t first, int64_t features) {
  jit::Node* before = site.masked ? site.input->node() : site.taker;
  jit::WithInsertPoint point(before);
  jit::Value* idle =
      site.masked ? site.masked->input(1) : graph.insertConstant(c10::IValue());  // None
  return insert_node(
      graph, kTapPart,
      {site.masked ? site.masked->output() : site.input, taps, graph.insertConstant(slot),
       graph.insertConstant(first), graph.insertConstant(features), idle},
      before);
}

/// Puts a tap behind `value`, for every later use of it.
void tap_after(jit::Graph& graph, jit::Value* value, jit::Value* taps, int64_t slot) {
  jit::Node* tap = insert_tap(graph, value, taps, slot, value->node()->next());
  value->replaceAllUsesAfterNodeWith(tap, tap->output());
}

jit::Node* only_user(const jit::Value* value) {
  return value->uses().size() == 1 ? value->uses()[0].user : nullptr;
}

bool adds_tensors(const jit::Node* node) {
  return (node->kind() == c10::aten::add || node->kind() == c10::aten::add_) &&
         node->input(0)->type()->isSubtypeOf(*c10::TensorType::get()) &&
         node->input(1)->type()->isSubtypeOf(*c10::TensorType::get());
}

/// Output of the down projection as [rows, tokens, hidden]: behind the view that GPT-2 adds.
jit::Value* projection_output(const Linear& linear) {
  jit::Value* value = linear.node->output();
  if (linear.taker == linear.node) return value;
  jit::Node* user = only_user(value);
  return user && (user->kind() == c10::aten::view || user->kind() == c10::aten::reshape)
             ? user->output()
             : value;
}

/// Where the projection joins the residual stream: the last of the additions that follow it
/// before the value is used twice. Post-norms and dropouts may lie on the way.
jit::Value* residual_after(jit::Value* output) {
  std::set<const jit::Value*> seen{output};
  std::vector<jit::Value*> frontier{output};
  jit::Value* sum = nullptr;
  for (size_t i = 0; i < frontier.size() && frontier.size() < 64 && !sum; ++i) {
    for (const jit::Use& use : frontier[i]->uses()) {
      if (adds_tensors(use.user)) {
        const bool stream =
            !seen.contains(use.user->input(0)) || !seen.contains(use.user->input(1));
        jit::Value* other = use.user->input(use.offset == 0 ? 1 : 0);
        // Neither a bias nor the epsilon of a norm is the stream.
        if (stream && !attribute_path(other) && other->node()->kind() != c10::prim::Constant) {
          sum = use.user->output();
          break;
        }
      }
      for (jit::Value* next : use.user->outputs()) {
        if (seen.insert(next).second) frontier.push_back(next);
      }
    }
  }
  while (sum) {
    jit::Node* user = only_user(sum);
    if (!user || !adds_tensors(user)) break;
    sum = user->output();
  }
  return sum;
}

/// The down projections among a graph's linears; of a layer with experts, those come first.
std::vector<Linear> sites_of(const std::vector<Linear>& linears, const std::regex& wanted,
                             bool known) {
  const bool mixture = std::any_of(linears.begin(), linears.end(),
                                   [](const Linear& l) { return l.masked != nullptr; });
  const std::regex shared(kSharedExperts);
  std::vector<Linear> sites;
  for (const Linear& l : linears) {
    const bool beside = known && mixture && (l.masked || std::regex_search(l.path, shared));
    if (beside || std::regex_search(l.path, wanted)) sites.push_back(l);
  }
  if (mixture) {
    std::map<std::string, size_t> blocks;  // in the graph's order
    const auto block = [&](const Linear& l) {
      return blocks.try_emplace(block_path(l.path), blocks.size()).first->second;
    };
    for (const Linear& l : sites) (void)block(l);
    std::stable_sort(sites.begin(), sites.end(), [&](const Linear& a, const Linear& b) {
      return std::pair(block(a), !a.masked) < std::pair(block(b), !b.masked);
    });
  }
  return sites;
}

/// By layer, what a mixture's graph marks as the output of an MLP with experts: all or none.
std::map<int64_t, jit::Value*> marked_outputs(jit::Graph& graph, const std::vector<Linear>& sites,
                                              const std::vector<int64_t>& numbers) {
  std::set<int64_t> mixed;
  for (size_t i = 0; i < sites.size(); ++i)
    if (sites[i].masked) mixed.insert(numbers[i]);
  std::vector<jit::Value*> marks;
  for (jit::Node* node : graph.nodes())
    if (node->kind() == c10::aten::alias) marks.push_back(node->output());
  std::map<int64_t, jit::Value*> out;
  if (marks.size() != mixed.size()) return out;
  size_t i = 0;
  for (const int64_t layer : mixed) out[layer] = marks[i++];
  return out;
}

}  // namespace

Grafted graft(const jit::Module& module, const std::string& pattern) {
  std::regex wanted;
  try {
    wanted = std::regex(pattern);
  } catch (const std::regex_error& error) {
    throw_value_error("graft: expected a regular expression, got '{}' ({}); try 'down_proj'",
                      pattern, error.what());
  }
  Grafted out;
  out.forward = module.get_method("forward").graph()->copy();
  jit::Graph& graph = *out.forward;
  jit::Inline(graph);

  const std::vector<Linear> linears = linears_of(module, graph);
  std::vector<Linear> sites = sites_of(linears, wanted, pattern == kDownProjection);
  if (sites.empty()) {
    throw_value_error(
        "graft: expected a down projection that matches '{}', found none; the model's linear "
        "modules are {}: pass as pattern the one that leaves the MLP",
        pattern, closest_names(linears, pattern));
  }
  const std::vector<int64_t> numbers = layer_numbers(sites);
  const auto layers = static_cast<size_t>(numbers.back()) + 1;
  std::vector<int64_t> widths(layers), parts(layers), first;
  for (size_t i = 0; i < sites.size(); ++i) {
    if (sites[i].hidden != sites[0].hidden) {
      throw_value_error(
          "graft: expected down projections into one residual stream, got {} features from {} and "
          "{} from {}; narrow the pattern",
          sites[0].hidden, sites[0].path, sites[i].hidden, sites[i].path);
    }
    const auto layer = static_cast<size_t>(numbers[i]);
    first.push_back(widths[layer]);
    widths[layer] += sites[i].width;
    parts[layer] += sites[i].masked ? 2 : 1;  // above 1: a layer with experts
  }
  out.shape = GridShape::of(widths);
  out.neuron_sites.resize(layers);
  out.by_rows.resize(layers);
  out.hidden = sites[0].hidden;
  out.dtype = sites[0].dtype;

  jit::Value* taps = graph.insertInput(1, "taps");
  taps->setType(c10::getCustomClassType<c10::intrusive_ptr<TapsHandle>>());
  const auto slot = [&](Site site, int64_t layer) {
    return static_cast<int64_t>(site) * out.shape.layers + layer;
  };
  // What each MLP writes, and the stream behind it.
  const std::map<int64_t, jit::Value*> marked = marked_outputs(graph, sites, numbers);
  std::map<int64_t, jit::Value*> outputs, streams;
  for (size_t i = 0; i < sites.size(); ++i) {
    const int64_t layer = numbers[i];
    const bool dense = parts[static_cast<size_t>(layer)] == 1;
    jit::Value* output = dense                    ? projection_output(sites[i])
                         : marked.contains(layer) ? marked.at(layer)
                                                  : nullptr;
    outputs[layer] = output;
    streams[layer] = output ? residual_after(output) : nullptr;
  }
  std::set<jit::Value*> distinct;
  for (const auto& [layer, stream] : streams)
    if (stream) distinct.insert(stream);
  out.residual_sites =
      static_cast<int64_t>(distinct.size()) == out.shape.layers;  // not behind other blocks

  for (size_t i = 0; i < sites.size(); ++i) {
    const Linear& site = sites[i];
    const int64_t layer = numbers[i];
    const auto l = static_cast<size_t>(layer);
    if (first[i] == 0) {
      out.neuron_sites[l] = site.path;
      out.by_rows[l] = site.by_rows;
    }
    if (parts[l] == 1) {
      jit::Node* tap = insert_tap(graph, site.input, taps, slot(Site::neuron, layer), site.taker);
      site.taker->replaceInput(site.input_slot, tap->output());
    } else {
      jit::Node* tap =
          insert_part_tap(graph, site, taps, slot(Site::neuron, layer), first[i], widths[l]);
      if (site.masked)
        site.input->node()->replaceInput(0, tap->output());
      else
        site.taker->replaceInput(site.input_slot, tap->output());
    }
    const bool last = i + 1 == sites.size() || numbers[i + 1] != layer;
    if (last && outputs.at(layer))
      tap_after(graph, outputs.at(layer), taps, slot(Site::mlp_output, layer));
    if (last && out.residual_sites)
      tap_after(graph, streams.at(layer), taps, slot(Site::residual, layer));
  }
  // The recording graph is the forward graph cut behind the last neuron tap.
  jit::EliminateDeadCode(out.forward);
  graph.lint();

  out.record = graph.copy();
  std::vector<jit::Value*> ends;  // one of each part of the last layer
  const int64_t last_slot = slot(Site::neuron, out.shape.layers - 1);
  for (jit::Node* node : out.record->nodes())
    if (is_tap(node) && jit::toIValue(node->input(2))->toInt() == last_slot)
      ends.push_back(node->output());
  if (!ends.empty()) {  // a tap inside a control-flow block keeps the whole graph
    while (!out.record->outputs().empty()) out.record->eraseOutput(0);
    for (jit::Value* end : ends) out.record->registerOutput(end);
    jit::EliminateDeadCode(out.record);
    out.record->lint();
  }
  return out;
}

namespace {
void move_block(jit::Block* block, c10::Device device, int64_t& moved) {
  for (jit::Node* node : block->nodes()) {
    for (jit::Block* inner : node->blocks()) move_block(inner, device, moved);
    if (node->kind() != c10::prim::Constant || !node->hasAttribute(c10::attr::value)) continue;
    const bool is_device = node->output()->type()->kind() == c10::TypeKind::DeviceObjType;
    if (is_device && node->kindOf(c10::attr::value) == jit::AttributeKind::s) {
      if (c10::Device(node->s(c10::attr::value)) == device) continue;
      node->s_(c10::attr::value, device.str());
      ++moved;
    } else if (node->kindOf(c10::attr::value) == jit::AttributeKind::t) {
      const at::Tensor tensor = node->t(c10::attr::value);
      // Scalars wrapped as tensors mix with every device.
      if (tensor.device() == device || tensor.dim() == 0) continue;
      node->t_(c10::attr::value, tensor.to(device));
      ++moved;
    }
  }
}
}  // namespace

int64_t move_constants(jit::Graph& graph, c10::Device device) {
  int64_t moved = 0;
  move_block(graph.block(), device, moved);
  return moved;
}

}  // namespace cna
