/// A host runs a causal language model one step at a time, with taps in place.
///
/// Step: [rows, new] tokens enter, keys and values of all [rows, total] tokens lie in buffers whose
/// first total - new places are filled; the host writes the rest and returns logits [rows, k,
/// vocab] at the k positions asked for. Hosts: TorchScript archives, AOTInductor packages, and
/// live modules (live.hpp).
#pragma once

#include <ATen/core/Tensor.h>

#include <memory>
#include <string>
#include <vector>

#include "cna/manifest.hpp"
#include "cna/neuron.hpp"
#include "cna/torch/tap.hpp"

namespace cna {

/// One forward step over a batch. Indices are int64 on the model's device; caches have its dtype.
struct Step {
  at::Tensor ids;                 ///< [rows, new]
  at::Tensor mask;                ///< [rows, total], 1 at real tokens, 0 at padding
  at::Tensor positions;           ///< [rows, new], place of each token in its prompt
  at::Tensor keep;                ///< [k], indices into `new` where logits are wanted
  std::vector<at::Tensor> cache;  ///< key, value of layer 0, key ... each [rows, heads, total, dim]
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
  std::vector<std::string> neuron_sites;
  bool residual_sites = false;

  /// True if steps may build on earlier ones; also the condition for padding and prefix sharing.
  bool has_cache() const { return !cache.empty(); }
  c10::Device cache_device(size_t layer) const {
    return cache_devices.empty() ? device : cache_devices[layer];
  }
};

/// The one interface that the recorder and the generator see.
class Host {
 public:
  virtual ~Host() = default;

  /// Logits [rows, k, vocab] in the model's dtype.
  virtual at::Tensor logits(const Step& step) = 0;
  /// Runs the step as far as the neuron taps need it; fills the caches on the way.
  virtual void run_to_last_tap(const Step& step) = 0;
  /// Moves weights and graph to a device.
  virtual void to(c10::Device device) = 0;

  Taps& taps() { return *taps_; }
  const ModelInfo& info() const { return info_; }

 protected:
  c10::intrusive_ptr<Taps> taps_ = c10::make_intrusive<Taps>();
  ModelInfo info_;
};

/// How to open an archive.
struct HostOptions {
  std::string pattern = {};  ///< empty: the manifest's, else the default
  c10::Device device = c10::Device(c10::kCPU);
  bool verify = true;  ///< compare an exported archive with the SHA-256 of its manifest
};

/// Opens an exported folder of either format, or a bare TorchScript file.
/// @throws Error for a missing, changed, truncated or foreign archive.
std::unique_ptr<Host> open_host(const std::filesystem::path& path, const HostOptions& options = {});

/// Opens a TorchScript export, or any traced causal language model in a bare TorchScript file.
///
/// A bare file's forward takes input_ids, or (input_ids, attention_mask), and returns logits
/// [rows, tokens, vocab], alone or first in a tuple.
/// @throws Error for a missing, truncated or foreign file; ValueError if no tap site is found.
std::unique_ptr<Host> open_torchscript(const std::filesystem::path& path,
                                       const HostOptions& options = {});

/// Opens a folder that `cna.export(..., format="aoti")` wrote: compiled code for one device.
///
/// The package holds taps at every site; the whole graph runs also where only neurons are recorded.
/// @throws Error for a damaged package, or one for another version of torch, device or processor.
std::unique_ptr<Host> open_aoti(const std::filesystem::path& folder,
                                const HostOptions& options = {});

/// What grafting finds in a TorchScript file, without running it: layers, width, tap sites.
ModelInfo inspect_torchscript(const std::filesystem::path& file, const std::string& pattern = "");

}  // namespace cna
