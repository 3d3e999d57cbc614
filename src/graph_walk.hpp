/// Walks the nodes of a TorchScript graph, those of control flow included. Private to the library.
#pragma once

#include <torch/csrc/jit/ir/ir.h>

namespace cna {

/// Calls `visit` with each node, inner blocks first; the visit may destroy its node or put others
/// before it.
template <typename Visit>
void each_node(::torch::jit::Block* block, const Visit& visit) {
  for (auto it = block->nodes().begin(); it != block->nodes().end();) {
    ::torch::jit::Node* node = *it++;
    for (::torch::jit::Block* inner : node->blocks()) each_node(inner, visit);
    visit(node);
  }
}

}  // namespace cna
