#include <ATen/ATen.h>
#include <ATen/Version.h>
#include <c10/core/DeviceGuard.h>
#include <torch/csrc/inductor/aoti_package/model_package_loader.h>
#include <torch/version.h>

#include <filesystem>
#include <fstream>
#include <map>

#include "archive.hpp"
#include "cna/error.hpp"
#include "cna/sha256.hpp"
#include "cna/torch/host.hpp"
#include "cna/torch/tap.hpp"
#include "step_error.hpp"

namespace cna {
namespace {

using ::torch::inductor::AOTIModelPackageLoader;

/// The gains that stand beside a package, float32 [1 or 1 + layers, hidden].
at::Tensor read_gains(const std::filesystem::path& folder, const Manifest& manifest,
                      int64_t layers) {
  const auto path = folder / manifest.gains;
  const auto changed = [&](const std::string& what) {
    throw_error(
        "contribution: expected the gains that the manifest describes in '{}', got {}; export the "
        "model again",
        path.string(), what);
  };
  if (!std::filesystem::exists(path)) changed("no file");
  if (sha256_of_file(path) != manifest.gains_sha256) changed("another SHA-256");
  const auto numbers = static_cast<int64_t>(std::filesystem::file_size(path) / sizeof(float));
  const int64_t rows = numbers / manifest.hidden;
  if (numbers != rows * manifest.hidden || (rows != 1 && rows != 1 + layers))
    changed(fmt::format("{} numbers", numbers));
  at::Tensor out = at::empty({rows, manifest.hidden}, at::kFloat);
  std::ifstream file(path, std::ios::binary);
  file.read(static_cast<char*>(out.data_ptr()), static_cast<std::streamsize>(out.nbytes()));
  if (!file) changed("an unreadable file");
  return out;
}

class AotiHost final : public Host {
 public:
  AotiHost(std::unique_ptr<AOTIModelPackageLoader> package, ModelInfo info, Manifest manifest,
           std::filesystem::path folder)
      : package_(std::move(package)), manifest_(std::move(manifest)), folder_(std::move(folder)) {
    info_ = std::move(info);
    taps_ = std::make_shared<Taps>(info_.shape.layers);
  }

  at::Tensor logits(const Step& step) override {
    // Dense integers; the buffers as they are: the package was compiled for views of larger ones.
    std::vector<at::Tensor> inputs;
    for (const at::Tensor& t : {step.ids, step.mask, step.positions, step.keep})
      inputs.push_back(t.contiguous());
    if (manifest_.step > 1) inputs.push_back(step.write_places().contiguous());
    inputs.insert(inputs.end(), step.cache.begin(), step.cache.end());
    const TapScope scope(*taps_);
    // The package runs on the current device's stream.
    const c10::OptionalDeviceGuard guard(info_.device.is_cpu() ? std::nullopt
                                                               : std::optional(info_.device));
    taps_->stopped = nullptr;
    taps_->begin_step(step.ids);
    at::Tensor out;
    try {
      out = package_->run(inputs).at(0);
    } catch (const std::exception& error) {
      if (!taps_->stopped) throw_step_error(step, error);  // else the tap's exception is the cause
    }
    if (auto stopped = std::exchange(taps_->stopped, nullptr)) {
      try {
        std::rethrow_exception(stopped);
      } catch (const c10::Error& error) {  // of the tap's own arithmetic
        throw_step_error(step, error);
      }
    }
    return out;
  }

  void run_to_last_tap(const Step& step) override { (void)logits(step); }
  [[nodiscard]] Taps& taps() override { return *taps_; }

  [[nodiscard]] Write write(int64_t layer) override {
    if (manifest_.gains.empty()) return Host::write(layer);
    const at::Tensor weight =
        constant("model." + info_.neuron_sites.at(static_cast<size_t>(layer)) + ".weight");
    const at::Tensor all = gains();
    return {manifest_.transposed ? weight.t() : weight,
            all.size(0) > 1 ? all[1 + layer] : at::Tensor()};
  }
  [[nodiscard]] Readout readout() override {
    if (manifest_.gains.empty()) return Host::readout();
    return {constant(manifest_.unembedding), gains()[0], manifest_.centred};
  }

  void to(c10::Device device) override {
    if (with_index(device) != info_.device) {
      throw_value_error(
          "to: expected device '{}', for which this model was compiled, got '{}'; export it again "
          "on that device",
          info_.device.str(), device.str());
    }
  }

 private:
  /// A weight of the package, where it lies.
  [[nodiscard]] at::Tensor constant(const std::string& name) {
    if (constants_.empty()) {
      for (const auto& [fqn, tensor] : package_->get_runner()->extract_constants_map(false))
        constants_.emplace(fqn, tensor);
    }
    const auto found = constants_.find(name);
    if (found == constants_.end()) {
      throw_error(
          "contribution: expected the weight '{}' in the package, found none; export the model "
          "again",
          name);
    }
    return found->second;
  }

  [[nodiscard]] at::Tensor gains() {
    if (!gains_.defined())
      gains_ = read_gains(folder_, manifest_, info_.shape.layers).to(info_.device);
    return gains_;
  }

  std::unique_ptr<AOTIModelPackageLoader> package_;
  std::shared_ptr<Taps> taps_;
  Manifest manifest_;
  std::filesystem::path folder_;
  std::map<std::string, at::Tensor> constants_;
  at::Tensor gains_;  // float32 [1 or 1 + layers, hidden]
};

std::string minor_version(const std::string& version) {
  return version.substr(0, version.find('.', version.find('.') + 1));
}

void require_this_machine(const Manifest& manifest, const std::filesystem::path& folder,
                          const HostOptions& options) {
  if (!options.pattern.empty() && options.pattern != manifest.tap_pattern) {
    throw_value_error(
        "load: expected the pattern that this model was compiled with ('{}'), got '{}'; export it "
        "again with that pattern",
        manifest.tap_pattern, options.pattern);
  }
  if (minor_version(manifest.torch) != minor_version(TORCH_VERSION)) {
    throw_error(
        "load: expected a model compiled with torch {}, got one of {} in '{}'; export it again",
        TORCH_VERSION, manifest.torch, folder.string());
  }
  if (c10::Device(manifest.device).type() != options.device.type()) {
    throw_value_error(
        "load: expected device '{}', for which '{}' was compiled, got '{}'; export it again on "
        "that device",
        manifest.device, folder.string(), options.device.str());
  }
  if (manifest.cpu_capability != at::get_cpu_capability()) {  // host code of GPU packages too
    throw_error(
        "load: expected a model compiled for this processor ({}), got one for {} in '{}'; export "
        "it again on this machine",
        at::get_cpu_capability(), manifest.cpu_capability, folder.string());
  }
}

at::ScalarType scalar_type(const std::string& name) {
  if (name == "bfloat16") return at::kBFloat16;
  if (name == "float64") return at::kDouble;
  return name == "float16" ? at::kHalf : at::kFloat;
}

}  // namespace

std::unique_ptr<Host> open_aoti(const std::filesystem::path& folder, const HostOptions& options) {
  if (options.precision != Precision::float32)
    throw_value_error(
        "load: expected a TorchScript export for products in bfloat16, got a compiled package; "
        "export "
        "it with format torchscript, or compile it in bfloat16");
  if (options.products)
    throw_value_error(
        "load: expected a TorchScript export for a form of its products, got a compiled package; "
        "leave "
        "the form open");
  if (options.capture)
    throw_value_error(
        "load: expected a TorchScript export, to capture its steps, got a compiled package; export "
        "it with format torchscript, or leave capture off");
  const Manifest manifest = checked_manifest(folder, "aoti", options.verify);
  require_this_machine(manifest, folder, options);
  const auto file = folder / manifest.archive;
  ModelInfo info;
  info.id = manifest.model_id;
  info.weights_hash = manifest.weights_hash;
  info.shape = manifest.shape;
  info.hidden = manifest.hidden;
  info.vocab = manifest.vocab;
  info.max_positions = manifest.max_positions;
  info.dtype = scalar_type(manifest.dtype);
  info.device = with_index(options.device);
  info.cache = manifest.cache;
  info.eos_ids = manifest.eos_ids;
  info.neuron_sites = manifest.neuron_sites;
  info.residual_sites = manifest.residual_sites;
  info.layouts = manifest.layouts;
  try {
    auto package = std::make_unique<AOTIModelPackageLoader>(
        file.string(), "model", /*run_single_threaded=*/false, /*num_runners=*/1,
        info.device.is_cpu() ? -1 : info.device.index());
    return std::make_unique<AotiHost>(std::move(package), std::move(info), manifest, folder);
  } catch (const std::exception& error) {
    throw_error(
        "load: expected an AOTInductor package, got '{}' ({}); the file is truncated or of another "
        "kind, or the disk for temporary files is full: export it again",
        file.string(), first_line(error));
  }
}

}  // namespace cna
