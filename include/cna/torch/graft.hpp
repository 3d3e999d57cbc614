/// Grafting puts taps into the graph of a TorchScript model, whoever exported it.
///
/// The forward graph is inlined; each linear whose weight path matches a pattern is a down
/// projection. Its input gets the neuron tap, its output the mlp_output tap, and the sum that
/// takes it back into the residual stream gets the residual tap. The file's module stays as it is.
/// All experts of a layer are one linear that takes them times their routing weights; the tap goes
/// before those, and a mixture's graph marks each MLP's output by `aten::alias`.
#pragma once

#include <torch/script.h>

#include <memory>
#include <string>
#include <vector>

#include "cna/export.hpp"
#include "cna/torch/step.hpp"

namespace cna {

/// Module paths of a down projection: Llama-like `mlp.down_proj`, GPT-2 `mlp.c_proj`, GPT-NeoX
/// `mlp.dense_4h_to_h`, GPT-J `mlp.fc_out`, Phi `mlp.fc2`, ModernBERT `mlp.Wo`, NemotronH
/// `mixer.down_proj`; OPT's `layers.0.fc2` (live hosts only: its rows are flat); BERT's
/// `layer.0.output.dense`.
inline constexpr const char* kDownProjection =
    R"((^|\.)(mlp|mlp_block|feed_forward|ffn|mixer)\.(down_proj|c_proj|dense_4h_to_h|fc_out|fc2|w2|Wo)$|(layers\.\d+\.fc2|layer\.\d+\.output\.dense)$)";

/// Beside experts: what every token sees too.
inline constexpr const char* kSharedExperts =
    R"((^|\.)(shared_experts?|shared_mlp)\.(down_proj|output_linear|w2)$)";

/// A model's graph with taps in place. Both graphs take (module, taps, forward's arguments ...).
struct Grafted {
  std::shared_ptr<::torch::jit::Graph> forward;  ///< the whole model
  std::shared_ptr<::torch::jit::Graph> record;   ///< ends at the last neuron tap
  std::vector<std::string> neuron_sites;         ///< path of each layer's down projection, or ""
  std::vector<bool> by_rows;                     ///< its weight is [hidden, width], not the reverse
  bool residual_sites = false;                   ///< every layer's residual stream was found
  GridShape shape;     ///< blocks without an MLP between others have no neurons
  int64_t hidden = 0;  ///< features of the residual stream
  at::ScalarType dtype = at::kFloat;
};

/// Puts taps into a copy of `module`'s forward graph.
/// @param pattern  ECMAScript regular expression, searched in the module path of each linear.
/// @throws ValueError if nothing matches (lists the closest module names), if one block holds
///         several of them (but for experts), or if the pattern is not a regular expression.
[[nodiscard]] CNA_API Grafted graft(const ::torch::jit::Module& module,
                                    const std::string& pattern = kDownProjection);

/// Rewrites device constants (a traced graph holds "cpu") and constant tensors to `device`.
/// @return how many constants were rewritten.
CNA_API int64_t move_constants(::torch::jit::Graph& graph, c10::Device device);

}  // namespace cna
