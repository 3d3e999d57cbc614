/// A grafted module is its weights alone. Private to the library.
#pragma once

#include <torch/csrc/jit/api/function_impl.h>
#include <torch/csrc/jit/passes/dead_code_elimination.h>
#include <torch/script.h>

#include "graph_walk.hpp"

namespace cna {

/// Empties the graphs of a module's methods, which inlining has compiled and nobody runs: 17 MiB of
/// SmolLM2-135M. The functions themselves stay, since stack traces name them. All stays as it is
/// where the inlined graph still calls one, of a module that is known by its interface alone.
inline void forget_methods(const ::torch::jit::Module& module, ::torch::jit::Graph& inlined) {
  namespace jit = ::torch::jit;
  bool calls = false;
  each_node(inlined.block(), [&](const jit::Node* node) {
    calls |= node->kind() == c10::prim::CallMethod || node->kind() == c10::prim::CallFunction;
  });
  if (calls) return;
  constexpr auto all = jit::DCESideEffectPolicy::ALLOW_DELETING_NODES_WITH_SIDE_EFFECTS;
  for (const jit::Module& part : module.modules()) {
    for (const jit::Method& method : part.get_methods()) {
      auto* function = jit::tryToGraphFunction(method.function());
      if (function == nullptr) continue;
      function->clear_optimized_graphs();
      const auto graph = function->graph();
      while (!graph->outputs().empty()) graph->eraseOutput(0);
      jit::EliminateDeadCode(graph->block(), true, all);
    }
  }
}

}  // namespace cna
