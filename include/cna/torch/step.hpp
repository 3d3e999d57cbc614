/// One forward step over a batch, and what a host knows of its model.
///
/// Words used with a step: `rows` are prompts of the batch; `new` tokens enter; `total` tokens, new
/// ones included, have keys and values in the cache; an `arm` is one strength of an intervention.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>
#include <vector>

#include "cna/export.hpp"
#include "cna/grid.hpp"
#include "cna/manifest.hpp"

namespace cna {

/// Where in a layer an activation is tapped.
enum class Site : int {
  neuron = 0,      ///< input of the MLP's down projection, [rows, tokens, width]
  mlp_output = 1,  ///< output of the down projection, [rows, tokens, hidden]
  residual = 2,    ///< residual stream after the layer, [rows, tokens, hidden]
};
inline constexpr int kSites = 3;

/// Name of a site in messages and in Python: "neuron", "mlp_output", "residual".
[[nodiscard]] constexpr const char* site_name(Site site) {
  switch (site) {
    case Site::neuron:
      return "neuron";
    case Site::mlp_output:
      return "mlp_output";
    case Site::residual:
      return "residual";
  }
  return "unknown";
}

/// One forward step over a batch. Indices are int64 on the model's device; caches have its dtype.
struct Step {
  at::Tensor ids;                 ///< [rows, new]
  at::Tensor mask;                ///< [rows, total], 0 at padding, 1 elsewhere
  at::Tensor positions;           ///< [rows, new], place of each token in its prompt
  at::Tensor keep;                ///< [k], indices into `new` where logits are wanted
  std::vector<at::Tensor> cache;  ///< key, value of layer 0, key ... each [rows, heads, total, dim]
  /// [new], where among `total` their keys and values go; undefined: the last ones. Places behind
  /// them hold finite numbers.
  at::Tensor places = {};

  /// The places, whether they are given or not.
  [[nodiscard]] CNA_API at::Tensor write_places() const;
};

/// What a host knows of its model.
struct ModelInfo {
  std::string id;            ///< for provenance
  std::string weights_hash;  ///< for provenance
  GridShape shape;
  int64_t hidden = 0;
  int64_t vocab = 0;          ///< 0 if not known before the first step
  int64_t max_positions = 0;  ///< 0 if unbounded
  at::ScalarType dtype = at::kFloat;
  c10::Device device = c10::Device(c10::kCPU);
  std::vector<CacheShape> cache;  ///< empty: no key/value cache, every step sees whole prompts
  std::vector<c10::Device> cache_devices;  ///< of each layer's cache; empty: all on `device`
  std::vector<int64_t> eos_ids;
  std::vector<std::string> neuron_sites;  ///< path of each layer's down projection, "" without one
  bool residual_sites = false;            ///< every layer's residual stream was found
  Layouts layouts;                        ///< counts only with a cache: else rows run whole, alone

  /// True if steps may build on earlier ones; also the condition for padding and prefix sharing.
  [[nodiscard]] bool has_cache() const { return !cache.empty(); }
  [[nodiscard]] c10::Device cache_device(size_t layer) const {
    return cache_devices.empty() ? device : cache_devices[layer];
  }
  /// Features at a site: the width of the widest layer, or that of the residual stream.
  [[nodiscard]] int64_t features(Site site) const {
    return site == Site::neuron ? shape.width : hidden;
  }
};

}  // namespace cna
