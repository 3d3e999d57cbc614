#include <ATen/TensorIndexing.h>
#include <torch/csrc/jit/runtime/interpreter.h>
#include <torch/script.h>

#include <map>
#include <optional>
#include <set>
#include <unordered_map>

#include "archive.hpp"
#include "cna/error.hpp"
#include "cna/torch/capture.hpp"
#include "cna/torch/graft.hpp"
#include "cna/torch/host.hpp"
#include "forget_methods.hpp"
#include "fuse.hpp"
#include "host_options.hpp"
#include "linears.hpp"
#include "packed.hpp"
#include "slots.hpp"
#include "step_error.hpp"
#include "taps_handle.hpp"

namespace cna {
namespace {

namespace jit = ::torch::jit;

class TorchScriptHost final : public Host {
 public:
  TorchScriptHost(jit::Module module, Grafted graph, bool exported, const HostOptions& options)
      : module_(std::move(module)),
        graph_(std::move(graph)),
        exported_(exported),
        fused_(options.fuse),
        captures_(options.capture),
        precision_(options.precision),
        form_(options.products) {
    handle_ = c10::make_intrusive<TapsHandle>(graph_.shape.layers);
    info_.shape = graph_.shape;
    info_.hidden = graph_.hidden;
    info_.dtype = graph_.dtype;
    info_.neuron_sites = graph_.neuron_sites;
    info_.residual_sites = graph_.residual_sites;
    forget_methods(module_, *graph_.forward);
    compile(/*may_fuse=*/options.device.is_cpu());
  }

  ModelInfo& editable_info() { return info_; }
  void describe(const Manifest& manifest) {
    unembedding_ = manifest.unembedding;
    takes_places_ = manifest.step > 1;
  }

  [[nodiscard]] Write write(int64_t layer) override {
    if (unembedding_.empty()) return Host::write(layer);
    const auto l = static_cast<size_t>(layer);
    const at::Tensor down = weight(graph_.neuron_sites.at(l));
    const at::Tensor gains = attribute(module_, "cna_post_gains");
    if (!down.defined()) return Host::write(layer);
    return {graph_.by_rows.at(l) ? down : down.t(),
            gains.defined() && gains.numel() > 0 ? gains[layer] : at::Tensor()};
  }
  [[nodiscard]] Readout readout() override {
    const at::Tensor head = unpack(attribute(module_, unembedding_));
    const at::Tensor gain = attribute(module_, "cna_final_gain");
    if (unembedding_.empty() || !head.defined() || !gain.defined()) return Host::readout();
    return {head, gain, attribute(module_, "cna_final_centred").numel() > 0};
  }
  [[nodiscard]] Taps& taps() override { return *handle_->taps; }
  [[nodiscard]] at::Tensor weight(const std::string& module) override {
    return plain(attribute(module_, module + ".weight"));
  }
  [[nodiscard]] ProductForm products() const override {
    return info_.device.is_cpu() ? form_.value_or(ProductForm::plain) : ProductForm::plain;
  }
  [[nodiscard]] bool widens() override {
    if (!widens_) widens_ = exported_ && widening_works(*this);
    return *widens_;
  }

  [[nodiscard]] bool captures() override {
    return captures_ && info_.layouts.room && !info_.device.is_cpu() &&
           capture_on(info_.device.type());
  }

  at::Tensor logits(const Step& step) override {
    for (; !copies_.empty(); copies_.pop_back()) make(copies_.back(), module_, precision_);
    c10::IValue result = run(forward_, step);
    if (result.isTuple()) result = result.toTupleRef().elements()[0];
    if (!result.isTensor()) {
      throw_error(
          "forward: expected logits as a tensor or first in a tuple, got {}; trace the "
          "model with return_dict=False",
          result.tagKind());
    }
    const at::Tensor out = result.toTensor();
    return exported_ ? out : out.index({at::indexing::Slice(), step.keep});
  }

  void run_to_last_tap(const Step& step) override { run(record_, step); }

  void to(c10::Device device) override {
    if (precision_ != Precision::float32 && !device.is_cpu())
      throw_value_error(
          "to: expected a CPU for a model with products in bfloat16, got {}; load it there with "
          "its own precision",
          device.str());
    // Everything is made anew on the device first, then taken over together, or put back.
    try {
      const std::vector<Slot> weights = weights_on(device);
      Grafted graph = graph_;
      for (auto* part : {&graph.forward, &graph.record}) {
        *part = (*part)->copy();
        move_constants(**part, device);
      }
      const std::vector<Slot> before = slots_of(module_);
      const c10::Device from = info_.device;
      put(weights);
      std::swap(graph_, graph);
      info_.device = device;
      try {
        compile(/*may_fuse=*/true);
      } catch (...) {
        put(before);
        std::swap(graph_, graph);
        info_.device = from;
        throw;
      }
    } catch (const std::exception& error) {
      throw_move_error(device, info_.device, error);
    }
  }

 private:
  /// The weight that a tensor of the module stands for, packed or joined or itself.
  [[nodiscard]] at::Tensor plain(const at::Tensor& stands) const {
    const auto part = parts_.find(stands.unsafeGetTensorImpl());
    if (part != parts_.end()) {
      const auto& [whole, first, size] = part->second;
      return unpack(whole).narrow(0, first, size).clone();
    }
    const bool turned = stands.defined() && turned_.contains(stands.unsafeGetTensorImpl());
    return turned ? unpack(stands).t().contiguous() : unpack(stands);
  }

  /// Makes what runs, all of it or nothing.
  void compile(bool may_fuse) {
    const bool fused = fused_ && may_fuse && info_.device.is_cpu();
    if (fused && !form_)
      form_ = precision_ == Precision::bf16 ? ProductForm::packed : fastest_form(module_, graph_);
    Fused graphs =
        fused ? fuse(module_, graph_, precision_, *form_) : Fused{graph_.forward, graph_.record};
    jit::Code forward(graphs.forward, "cna_forward"), record(graphs.record, "cna_record");
    forward_ = std::move(forward), record_ = std::move(record);
    turned_ = std::move(graphs.turned), copies_ = std::move(graphs.copies);
    parts_ = std::move(graphs.parts);
  }

  /// Every tensor of the module on a device; one that two attributes share stays shared.
  [[nodiscard]] std::vector<Slot> weights_on(c10::Device device) const {
    std::unordered_map<at::TensorImpl*, at::Tensor> moved;
    std::vector<Slot> out = slots_of(module_);
    for (Slot& slot : out) {
      at::Tensor& to = moved[slot.tensor.unsafeGetTensorImpl()];
      if (is_packed_copy(slot.name()))
        to = at::empty({0});  // made again where it is of use
      else if (!to.defined())
        to = plain(slot.tensor).detach().to(device);
    }
    for (Slot& slot : out) slot.tensor = moved.at(slot.tensor.unsafeGetTensorImpl());
    return out;
  }

  c10::IValue run(const jit::Code& code, const Step& step) {
    jit::Stack stack{module_._ivalue(), handle_, step.ids};
    if (exported_) {
      stack.insert(stack.end(), {step.mask, step.positions, step.keep});
      if (takes_places_) stack.emplace_back(step.write_places());
      stack.insert(stack.end(), step.cache.begin(), step.cache.end());
    } else if (code.num_inputs() > 3) {
      stack.emplace_back(step.mask);
    }
    handle_->taps->stopped = nullptr;
    handle_->taps->begin_step(step.ids);
    try {
      c10::InferenceMode guard;
      jit::InterpreterState(code).run(stack);
    } catch (const std::exception& error) {
      // The interpreter rethrows everything as runtime_error; the tap kept the original.
      if (auto stopped = std::exchange(handle_->taps->stopped, nullptr))
        std::rethrow_exception(stopped);
      throw_step_error(step, error);
    }
    return std::move(stack.back());
  }

  jit::Module module_;
  Grafted graph_;
  bool exported_, fused_, captures_;
  Precision precision_;
  std::optional<ProductForm> form_;  // empty until a graph is fused
  c10::intrusive_ptr<TapsHandle> handle_;
  jit::Code forward_, record_;
  std::set<const c10::TensorImpl*> turned_;       // packed weights whose plain form is [in, out]
  std::vector<PackedCopy> copies_;                // not made yet
  std::map<const c10::TensorImpl*, Part> parts_;  // by what stands for a joined weight
  std::string unembedding_;
  bool takes_places_ = true;  // else the graph writes the last places
  std::optional<bool> widens_;
};

jit::Module load_archive(const std::filesystem::path& file) {
  if (!std::filesystem::exists(file)) {
    throw_as<FileNotFound>("load: expected a model file, found nothing at '{}'; check the path",
                           file.string());
  }
  try {
    jit::Module module = jit::load(file.string(), c10::kCPU);
    module.eval();
    return module;
  } catch (const std::exception& error) {
    throw_error(
        "load: expected a TorchScript archive, got '{}' ({}); the file is truncated or of "
        "another kind, export it again",
        file.string(), first_line(error));
  }
}

/// A shape as a graph has it, which does not tell experts apart.
GridShape bare(GridShape shape) {
  shape.experts.clear();
  return shape;
}

}  // namespace

ModelInfo inspect_torchscript(const std::filesystem::path& file, const std::string& pattern) {
  const Grafted graph = graft(load_archive(file), pattern.empty() ? kDownProjection : pattern);
  ModelInfo info;
  info.shape = graph.shape;
  info.hidden = graph.hidden;
  info.dtype = graph.dtype;
  info.neuron_sites = graph.neuron_sites;
  info.residual_sites = graph.residual_sites;
  return info;
}

std::unique_ptr<Host> open_torchscript(const std::filesystem::path& path,
                                       const HostOptions& options) {
  const bool exported = std::filesystem::is_directory(path);
  Manifest manifest;
  if (exported) manifest = checked_manifest(path, "torchscript", options.verify);
  require_capture(options, exported, manifest);
  jit::Module module = load_archive(exported ? path / manifest.archive : path);
  if (!module.find_method("forward")) {
    throw_error(
        "load: expected a TorchScript model with a forward method, got none in '{}'; trace "
        "the model, not a function of it",
        path.string());
  }
  std::string pattern = options.pattern.empty() ? manifest.tap_pattern : options.pattern;
  Grafted graph = graft(module, pattern.empty() ? kDownProjection : pattern);
  const size_t arguments = graph.forward->inputs().size() - 2;
  if (exported && (arguments != manifest.leading_inputs() + 2 * manifest.cache.size() ||
                   graph.shape != bare(manifest.shape))) {
    throw_error(
        "load: expected the archive that the manifest describes ({} neurons, {} "
        "inputs), got {}, {} inputs in '{}'; export the model again",
        manifest.shape.text(), manifest.leading_inputs() + 2 * manifest.cache.size(),
        graph.shape.text(), arguments, path.string());
  }
  if (!exported && (arguments < 1 || arguments > 2)) {
    throw_error(
        "load: expected a forward of (input_ids) or (input_ids, attention_mask), got {} "
        "arguments in '{}'; trace it with one of these, or use cna.export",
        arguments, path.string());
  }
  if (exported) graph.shape = manifest.shape;
  require_precision(options, graph.dtype);
  require_products(options, graph.dtype);
  auto host =
      std::make_unique<TorchScriptHost>(std::move(module), std::move(graph), exported, options);
  host->describe(manifest);
  ModelInfo& info = host->editable_info();
  info.id = exported ? manifest.model_id : path.filename().string();
  info.weights_hash = manifest.weights_hash;
  info.vocab = manifest.vocab;
  info.max_positions = manifest.max_positions;
  info.cache = manifest.cache;
  info.eos_ids = manifest.eos_ids;
  info.layouts = manifest.layouts;
  info.residual_sites = info.residual_sites && manifest.residual_sites;
  if (!options.device.is_cpu()) host->to(with_index(options.device));
  return host;
}

}  // namespace cna
