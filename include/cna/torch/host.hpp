/// A host runs a causal language model one step at a time, with taps in place.
///
/// Step: [rows, new] tokens enter; keys and values of [rows, places] tokens lie in buffers, into
/// which the host writes those of the new ones at the places given, and the host returns logits
/// [rows, k, vocab] at the k positions asked for (step.hpp). Hosts: TorchScript archives,
/// AOTInductor packages, and live modules (live.hpp).
#pragma once

#include <filesystem>
#include <memory>
#include <optional>
#include <string>

#include "cna/export.hpp"
#include "cna/torch/readout.hpp"
#include "cna/torch/step.hpp"

namespace cna {

class Taps;  // tap.hpp

/// In which form a CPU multiplies by the weights of linear layers; last bits of results differ.
enum class ProductForm {
  plain,          ///< as torch's own linear layers do
  weights_first,  ///< the same weights, as W x^T for fewer than 128 rows
  packed,         ///< weights in oneDNN's own layout, the plain ones dropped
};

/// The one interface that the recorder and the generator see.
class CNA_API Host {
 public:
  virtual ~Host() = default;

  /// Logits [rows, k, vocab] in the model's dtype.
  [[nodiscard]] virtual at::Tensor logits(const Step& step) = 0;
  /// Runs the step as far as the neuron taps need it; fills the caches on the way.
  virtual void run_to_last_tap(const Step& step) = 0;
  /// Moves weights and graph to a device. If that fails, nothing has moved.
  virtual void to(c10::Device device) = 0;
  /// The model's taps: what to record, what to edit.
  [[nodiscard]] virtual Taps& taps() = 0;

  /// What the neurons of a layer write into the residual stream.
  /// @throws Error where the host does not know its weights.
  [[nodiscard]] virtual Write write(int64_t layer);
  /// How the answer is read off the residual stream.
  /// @throws as above.
  [[nodiscard]] virtual Readout readout();

  /// The weight of a module of the graph, "model.model.embed_tokens"; undefined where the host has
  /// no modules or none of that name.
  [[nodiscard]] virtual at::Tensor weight(const std::string& /*module*/) { return {}; }

  /// Whether rows may join a pass on its way (`Taps::widen`), so that arms share their lower
  /// layers; finding out may run a step.
  [[nodiscard]] virtual bool widens() { return false; }

  /// Whether steps of one token may be captured and replayed (capture.hpp): they launch the same
  /// kernels whenever their shapes are the same, and the device can.
  [[nodiscard]] virtual bool captures() { return false; }

  /// The form in which it multiplies.
  [[nodiscard]] virtual ProductForm products() const { return ProductForm::plain; }

  [[nodiscard]] const ModelInfo& info() const { return info_; }

 protected:
  /// What a short pass says that is widened in the middle, beside a plain one.
  [[nodiscard]] static bool widening_works(Host& host);

  ModelInfo info_;
};

/// The device with its number. "cuda" alone means the calling thread's current one, which another
/// thread does not have: a model keeps the number, so that all it makes later lies beside it.
[[nodiscard]] CNA_API c10::Device with_index(c10::Device device);

/// What the products of a float32 model are computed in; weights that are read and results are
/// float32 either way.
enum class Precision {
  float32,
  bf16,  ///< of inputs and weights rounded to bfloat16: half the memory, relative errors of 0.3 %
};

/// How to open an archive.
struct HostOptions {
  std::string pattern = {};  ///< empty: the manifest's, else the default
  c10::Device device = c10::Device(c10::kCPU);
  bool verify = true;  ///< compare an exported archive with the SHA-256 of its manifest
  /// Rewrite a TorchScript graph so that a CPU runs it faster; last bits of numbers change. False:
  /// bit for bit what the graph itself computes.
  bool fuse = true;
  /// bf16: of a float32 TorchScript graph on a CPU that has such products, with `fuse`.
  Precision precision = Precision::float32;
  /// Capture steps of one token and replay them; of a TorchScript export of version 2, on a device
  /// for which torch or `set_capture` (capture.hpp) says how.
  bool capture = false;
  /// Of a float32 TorchScript graph on a CPU, with `fuse`. Empty: measured when the file is opened,
  /// packed unless another form is faster by a quarter.
  std::optional<ProductForm> products = {};
};

/// Opens an exported folder of either format, or a bare TorchScript file.
/// @throws FileNotFound for a missing archive; Error for a changed, truncated or foreign one;
///         ValueError for options that this export or device cannot have.
[[nodiscard]] CNA_API std::unique_ptr<Host> open_host(const std::filesystem::path& path,
                                                      const HostOptions& options = {});

/// Opens a TorchScript export, or any traced causal language model in a bare TorchScript file.
///
/// A bare file's forward takes input_ids, or (input_ids, attention_mask), and returns logits
/// [rows, tokens, vocab], alone or first in a tuple.
/// @throws FileNotFound for a missing file; Error for a truncated or foreign one; ValueError if no
///         tap site is found, or for options that this file or device cannot have.
[[nodiscard]] CNA_API std::unique_ptr<Host> open_torchscript(const std::filesystem::path& path,
                                                             const HostOptions& options = {});

/// Opens a folder that `cna.export(..., format="aoti")` wrote: compiled code for one device.
///
/// The package holds taps at every site; the whole graph runs also where only neurons are recorded.
/// @throws Error for a damaged package, or one for another version of torch, device or processor.
[[nodiscard]] CNA_API std::unique_ptr<Host> open_aoti(const std::filesystem::path& folder,
                                                      const HostOptions& options = {});

/// What grafting finds in a TorchScript file, without running it: layers, width, tap sites.
[[nodiscard]] CNA_API ModelInfo inspect_torchscript(const std::filesystem::path& file,
                                                    const std::string& pattern = "");

}  // namespace cna
