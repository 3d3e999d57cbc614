#include "cna/torch/graft.hpp"

#include <torch/csrc/jit/ir/constants.h>
#include <torch/csrc/jit/passes/dead_code_elimination.h>
#include <torch/csrc/jit/passes/inliner.h>

#include <algorithm>
#include <optional>
#include <regex>
#include <set>

#include "cna/error.hpp"
#include "linears.hpp"
#include "taps_handle.hpp"

namespace cna {
namespace {

namespace jit = ::torch::jit;

jit::Node* insert_tap(jit::Graph& graph, jit::Value* value, jit::Value* taps, int64_t slot,
                      jit::Node* before) {
  jit::WithInsertPoint point(before);
  jit::Value* number = graph.insertConstant(slot);
  jit::Node* tap = graph.create(c10::Symbol::fromQualString("cna::tap"), {value, taps, number}, 1);
  tap->output()->setType(c10::TensorType::get());
  graph.insertNode(tap);
  return tap;
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
  std::vector<Linear> sites;
  std::copy_if(linears.begin(), linears.end(), std::back_inserter(sites),
               [&](const Linear& l) { return std::regex_search(l.path, wanted); });
  if (sites.empty()) {
    throw_value_error(
        "graft: expected a down projection that matches '{}', found none; the model's linear "
        "modules are {}: pass as pattern the one that leaves the MLP",
        pattern, closest_names(linears, pattern));
  }
  const std::vector<int64_t> numbers = layer_numbers(sites);
  std::vector<int64_t> widths(static_cast<size_t>(numbers.back()) + 1);
  for (size_t i = 0; i < sites.size(); ++i) {
    if (sites[i].hidden != sites[0].hidden) {
      throw_value_error(
          "graft: expected down projections into one residual stream, got {} features from {} and "
          "{} from {}; narrow the pattern",
          sites[0].hidden, sites[0].path, sites[i].hidden, sites[i].path);
    }
    widths[static_cast<size_t>(numbers[i])] = sites[i].width;
  }
  out.shape = GridShape::of(std::move(widths));
  out.neuron_sites.resize(static_cast<size_t>(out.shape.layers));
  out.by_rows.resize(static_cast<size_t>(out.shape.layers));
  out.hidden = sites[0].hidden;
  out.dtype = sites[0].dtype;

  jit::Value* taps = graph.insertInput(1, "taps");
  taps->setType(c10::getCustomClassType<c10::intrusive_ptr<TapsHandle>>());
  const auto slot = [&](Site site, int64_t layer) {
    return static_cast<int64_t>(site) * out.shape.layers + layer;
  };
  std::vector<jit::Value*> streams;
  for (const Linear& site : sites) streams.push_back(residual_after(projection_output(site)));
  out.residual_sites = std::all_of(streams.begin(), streams.end(), [](auto* v) { return v; }) &&
                       std::set<jit::Value*>(streams.begin(), streams.end()).size() ==
                           static_cast<size_t>(out.shape.layers);  // not behind other blocks

  for (size_t i = 0; i < sites.size(); ++i) {
    const Linear& site = sites[i];
    const int64_t layer = numbers[i];
    out.neuron_sites[static_cast<size_t>(layer)] = site.path;
    out.by_rows[static_cast<size_t>(layer)] = site.by_rows;
    jit::Node* tap = insert_tap(graph, site.input, taps, slot(Site::neuron, layer), site.taker);
    site.taker->replaceInput(site.input_slot, tap->output());
    tap_after(graph, projection_output(site), taps, slot(Site::mlp_output, layer));
    if (out.residual_sites) tap_after(graph, streams[i], taps, slot(Site::residual, layer));
  }
  // The recording graph is the forward graph cut behind the last neuron tap.
  jit::EliminateDeadCode(out.forward);
  graph.lint();

  out.record = graph.copy();
  jit::Value* end = nullptr;
  const int64_t last_slot = slot(Site::neuron, out.shape.layers - 1);
  for (jit::Node* node : out.record->nodes()) {
    if (node->kind() == c10::Symbol::fromQualString("cna::tap") &&
        jit::toIValue(node->input(2))->toInt() == last_slot)
      end = node->output();
  }
  if (end) {  // a tap inside a control-flow block keeps the whole graph
    while (!out.record->outputs().empty()) out.record->eraseOutput(0);
    out.record->registerOutput(end);
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
