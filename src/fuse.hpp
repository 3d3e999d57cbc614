/// Rewrites a grafted graph so that a CPU runs it faster. Private to the library.
///
/// Linear layers multiply in the form that is fastest here (product_form.hpp): their weights are
/// packed, and the plain copies dropped where nothing else reads them, or read first. Packed layers
/// that read the same become one (products.hpp), equal parts of the graph are computed once, chains
/// of small operators become one (fuse_chains.hpp). Products, norms, SiLU and the attention of few
/// tokens change in their last bits; HostOptions::fuse switches all of it off.
#pragma once

#include <torch/script.h>

#include <map>
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

/// The weight of a layer that was joined with others.
struct Part {
  at::Tensor whole;     ///< the packed weight of all
  int64_t first, size;  ///< its features among theirs
};

/// Graphs that run in place of the grafted ones.
struct Fused {
  std::shared_ptr<::torch::jit::Graph> forward, record;
  /// Packed weights that the module has as [in, out].
  std::set<const c10::TensorImpl*> turned = {};
  std::vector<PackedCopy> copies = {};  ///< that `forward` needs
  /// By the tensor that stands where the weight stood.
  std::map<const c10::TensorImpl*, Part> parts = {};
};

/// The form that this machine multiplies by the weights of a graph in, by measurement.
[[nodiscard]] ProductForm fastest_form(const ::torch::jit::Module& module, const Grafted& graph);

/// Rewritten copies of both graphs; weights of `module` are packed in place, those that can be.
[[nodiscard]] Fused fuse(::torch::jit::Module& module, const Grafted& graph, Precision precision,
                         ProductForm form);

/// Fills the attribute of a copy.
void make(const PackedCopy& copy, const ::torch::jit::Module& module, Precision precision);

/// Whether an attribute of the module holds a second, packed copy of a weight.
[[nodiscard]] bool is_packed_copy(const std::string& name);

}  // namespace cna
