/// Rewrites a grafted graph so that a CPU runs it faster. Private to the library.
///
/// A linear layer's weight is packed (packed.hpp), and the plain copy dropped where nothing else
/// reads it; chains of small operators become one (fuse_chains.hpp). Products and norms change in
/// their last bits; HostOptions::fuse switches all of it off.
#pragma once

#include <torch/script.h>

#include <memory>
#include <set>
#include <string>
#include <vector>

#include "cna/torch/graft.hpp"
#include "cna/torch/host.hpp"

namespace cna {

/// A second, packed form of a weight that something beside a product reads, such as a head tied to
/// the embedding. A recording does without: it is made before logits are asked for.
struct PackedCopy {
  std::string path;  ///< of the weight
  std::string name;  ///< of the attribute that takes the copy, empty until then
  bool turned;       ///< the weight is [in, out]
};

/// Graphs that run in place of the grafted ones.
struct Fused {
  std::shared_ptr<::torch::jit::Graph> forward, record;
  /// Packed weights that the module has as [in, out].
  std::set<const c10::TensorImpl*> turned = {};
  std::vector<PackedCopy> copies = {};  ///< that `forward` needs
};

/// Rewritten copies of both graphs; weights of `module` are packed in place. A model whose weights
/// cannot be packed keeps its graphs.
[[nodiscard]] Fused fuse(::torch::jit::Module& module, const Grafted& graph, Precision precision);

/// Fills the attribute of a copy.
void make(const PackedCopy& copy, const ::torch::jit::Module& module, Precision precision);

/// Whether an attribute of the module holds a second, packed copy of a weight.
[[nodiscard]] bool is_packed_copy(const std::string& name);

}  // namespace cna
