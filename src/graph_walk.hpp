/// Walks the nodes of a TorchScript graph, those of control flow included, and puts others among
/// them. Private to the library.
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

/// A new operator of one tensor in front of a node.
inline ::torch::jit::Node* insert_node(::torch::jit::Graph& graph, const char* name,
                                       at::ArrayRef<::torch::jit::Value*> inputs,
                                       ::torch::jit::Node* before) {
  ::torch::jit::Node* node = graph.create(c10::Symbol::fromQualString(name), inputs, 1);
  node->output()->setType(c10::TensorType::get());
  node->insertBefore(before);
  return node;
}

}  // namespace cna
