#include <array>
#include <map>

#include "bindings.hpp"
#include "cna/error.hpp"
#include "cna/torch/graft.hpp"
#include "cna/torch/live.hpp"

namespace cna::python {
namespace {

constexpr std::array<std::pair<const char*, ProductForm>, 3> kProducts{
    {{"packed", ProductForm::packed},
     {"weights_first", ProductForm::weights_first},
     {"plain", ProductForm::plain}}};

/// Empty: measured.
std::optional<ProductForm> products_from(const std::string& name) {
  for (const auto& [known, form] : kProducts)
    if (name == known) return form;
  if (name.empty()) return std::nullopt;
  throw_value_error(
      "load: expected products of packed, weights_first or plain, or none, got '{}'; choose one",
      name);
}

/// What a live model's owner says of it.
ModelInfo info_from(const py::dict& d) {
  ModelInfo info;
  info.id = py::cast<std::string>(d["model_id"]);
  info.weights_hash = py::cast<std::string>(d["weights_hash"]);
  info.shape =
      GridShape::of(py::cast<std::vector<int64_t>>(d["widths"]),
                    d.contains("experts") ? experts_from(py::cast<ExpertPairs>(d["experts"]))
                                          : std::vector<Experts>());
  info.hidden = py::cast<int64_t>(d["hidden_size"]);
  info.vocab = py::cast<int64_t>(d["vocab_size"]);
  info.max_positions = py::cast<int64_t>(d["max_positions"]);
  info.dtype = py::cast<at::ScalarType>(d["dtype"]);
  info.device = c10::Device(py::cast<std::string>(d["device"]));
  info.eos_ids = py::cast<std::vector<int64_t>>(d["eos_token_ids"]);
  info.neuron_sites = py::cast<std::vector<std::string>>(d["neuron_sites"]);
  info.residual_sites = py::cast<bool>(d["residual_sites"]);
  if (d.contains("layouts")) {
    const auto layouts = py::cast<std::map<std::string, bool>>(d["layouts"]);
    info.layouts = {layouts.at("batch"), layouts.at("padding"), layouts.at("share_prefix"), false};
  }
  for (const auto& [heads, key, value] :
       py::cast<std::vector<std::tuple<int64_t, int64_t, int64_t>>>(d["cache"]))
    info.cache.push_back({heads, key, value});
  for (const auto& device : py::cast<std::vector<std::string>>(d["cache_devices"]))
    info.cache_devices.emplace_back(device);
  return info;
}

/// Calls Python with the GIL held; the callables live as long as the host.
/// @param weights  write(layer) -> (weight, gain or None), readout() -> (unembedding, gain,
///                 centred), or None
std::unique_ptr<Host> live_host(
    const py::dict& info, const py::function& forward, const py::function& move,
    const std::optional<std::pair<py::function, py::function>>& weights) {
  auto run = [f = kept(forward)](const Step& step, Taps& taps) {
    py::gil_scoped_acquire gil;
    return py::cast<at::Tensor>((*f)(step.ids, step.mask, step.positions, step.keep,
                                     step.write_places(), step.cache, taps.shared_from_this()));
  };
  auto to = [f = kept(move)](c10::Device device) {
    py::gil_scoped_acquire gil;
    (*f)(device.str());
  };
  LiveWeights known;
  if (weights) {
    known.write = [f = kept(weights->first)](int64_t layer) {
      py::gil_scoped_acquire gil;
      const auto [weight, gain] =
          py::cast<std::pair<at::Tensor, std::optional<at::Tensor>>>((*f)(layer));
      return Write{weight, gain.value_or(at::Tensor())};
    };
    known.readout = [f = kept(weights->second)] {
      py::gil_scoped_acquire gil;
      const auto [unembedding, gain, centred] =
          py::cast<std::tuple<at::Tensor, at::Tensor, bool>>((*f)());
      return Readout{unembedding, gain, centred};
    };
  }
  // Modules in Python may be wrapped, or spread over processes: their rows stay as they are.
  return std::make_unique<LiveHost>(info_from(info), std::move(run), std::move(to),
                                    std::move(known), /*may_widen=*/false);
}

}  // namespace

py::class_<Model> bind_host(py::module_& m) {
  py::class_<Taps, std::shared_ptr<Taps>>(m, "Taps",
                                          "The taps of one model, called by a live model's hooks.")
      .def(
          "apply",
          [](Taps& t, const at::Tensor& x, int64_t slot, int64_t first,
             const std::optional<py::function>& gather, int64_t features,
             const std::optional<at::Tensor>& idle) {
            TapShard shard{first, {}, features, idle.value_or(at::Tensor())};
            if (gather) {
              shard.gather = [&](const at::Tensor& part) {
                return py::cast<at::Tensor>((*gather)(part));
              };
            }
            try {
              return t.apply(x, slot, gather || features ? &shard : nullptr);
            } catch (py::error_already_set&) {  // Python carries it from here, and only once
              t.stopped = nullptr;
              throw;
            }
          },
          py::arg("x"), py::arg("slot"), py::arg("first") = 0, py::arg("gather") = py::none(),
          py::arg("features") = 0, py::arg("idle") = py::none(),
          "Records and edits x [rows, tokens, features]; returns it, or a changed copy. A part of "
          "a "
          "layer holds the features from `first` on: of several processes, `gather` makes a "
          "recording "
          "whole; of several modules, the layer has `features`, and where `idle` is true (bool, "
          "broadcast to x) it stays 0.")
      .def("watches", &Taps::watches, py::arg("slot"),
           "Whether the pass under way records or edits at this tap.")
      .def(
          "slot",
          [](const Taps& t, const std::string& site, int64_t layer) {
            return t.slot(site_from(site), layer);
          },
          py::arg("site"), py::arg("layer"));

  py::class_<Model> model(m, "Model", "A language model with taps.");
  model
      .def_static(
          "load",
          [](const std::filesystem::path& path, const std::string& pattern,
             const std::string& device, bool verify, bool fuse, bool bf16, bool capture,
             const std::string& products) {
            py::gil_scoped_release release;
            const Precision precision = bf16 ? Precision::bf16 : Precision::float32;
            return Model::load(path, {pattern, c10::Device(device), verify, fuse, precision,
                                      capture, products_from(products)});
          },
          py::arg("path"), py::arg("pattern") = "", py::arg("device") = "cpu",
          py::arg("verify") = true, py::arg("fuse") = true, py::arg("bf16") = false,
          py::arg("capture") = false, py::arg("products") = "",
          "Opens an exported folder, or any traced TorchScript language model.")
      .def_static(
          "live",
          [](const py::dict& info, const py::function& forward, const py::function& move,
             const std::optional<std::pair<py::function, py::function>>& weights) {
            return Model(live_host(info, forward, move, weights));
          },
          py::arg("info"), py::arg("forward"), py::arg("move"), py::arg("weights") = py::none(),
          "A model that Python runs: forward(ids, mask, positions, keep, places, cache, taps) -> "
          "logits [rows, k, vocab]. ids, positions int64 [rows, new]; mask int64 [rows, places]; "
          "keep int64 [k], of the new tokens; places int64 [new], of the new keys and values in "
          "the cache's buffers [rows, heads, places, dim], keys and values of each layer in turn.")
      .def(
          "to",
          [](Model& self, const std::string& device) {
            py::gil_scoped_release release;
            self.to(c10::Device(device));
          },
          py::arg("device"))
      .def(
          "dry_run",
          [](Model& self, int64_t rows, int64_t fresh, int64_t past) {
            py::gil_scoped_release release;
            return dry_run(self, rows, fresh, past);
          },
          py::arg("rows"), py::arg("fresh"), py::arg("past"),
          "Shape of the logits of one step of zeros; on 'meta' it finds leftover device constants.")
      .def(
          "weight",
          [](Model& s, const std::string& module) -> std::optional<at::Tensor> {
            py::gil_scoped_release release;
            const Model::Turn turn = s.take_turn("weight");
            const at::Tensor found = s.host().weight(module);
            return found.defined() ? std::optional(found) : std::nullopt;
          },
          py::arg("module"),
          "Weight of a module of an exported graph, by its path; None where there is none.")
      .def_property_readonly(
          "widens",
          [](Model& s) {
            py::gil_scoped_release release;
            const Model::Turn turn = s.take_turn("widens");
            return s.host().widens();
          },
          "Whether arms share the layers below their first edit; finding out may run a step.")
      .def_property_readonly("id", [](const Model& s) { return s.info().id; })
      .def_property_readonly("weights_hash", [](const Model& s) { return s.info().weights_hash; })
      .def_property_readonly(
          "shape",
          [](const Model& s) { return std::pair(s.info().shape.layers, s.info().shape.width); },
          "(n_layers, width); width is that of the widest layer")
      .def_property_readonly(
          "widths", [](const Model& s) { return widths_of(s.shape()); },
          "Neurons of each layer, [n_layers]; 0 for a block without an MLP")
      .def_property_readonly(
          "experts", [](const Model& s) { return experts_of(s.shape()); },
          "(count, width) of each layer's experts, [n_layers]; empty where no layer has any.")
      .def_property_readonly(
          "n_neurons", [](const Model& s) { return s.shape().size(); }, "Of all layers")
      .def_property_readonly("hidden", [](const Model& s) { return s.info().hidden; })
      .def_property_readonly("vocab", [](const Model& s) { return s.info().vocab; })
      .def_property_readonly("max_positions", [](const Model& s) { return s.info().max_positions; })
      .def_property_readonly("dtype", [](const Model& s) { return c10::toString(s.info().dtype); })
      .def_property_readonly("device", [](const Model& s) { return s.info().device.str(); })
      .def_property_readonly("eos_ids", [](const Model& s) { return s.info().eos_ids; })
      .def_property_readonly("neuron_sites", [](const Model& s) { return s.info().neuron_sites; })
      .def_property_readonly("has_cache", [](const Model& s) { return s.info().has_cache(); })
      .def_property_readonly(
          "layouts",
          [](const Model& s) {
            const Layouts& found = s.info().layouts;
            return std::map<std::string, bool>{{"batch", found.batch},
                                               {"padding", found.padding},
                                               {"share_prefix", found.share_prefix}};
          },
          "Which layouts give the model's own numbers: batch, padding, share_prefix.")
      .def_property_readonly(
          "has_room", [](const Model& s) { return s.info().layouts.room; },
          "Whether keys and values may have places behind the new tokens'.")
      .def_property_readonly("has_residual_sites",
                             [](const Model& s) { return s.info().residual_sites; })
      .def_property_readonly(
          "products",
          [](Model& s) {
            for (const auto& [name, form] : kProducts)
              if (s.host().products() == form) return name;
            return "plain";
          },
          "The form in which it multiplies: packed, weights_first or plain.")
      .def_property_readonly(
          "captures", [](Model& s) { return s.host().captures(); },
          "Whether steps of one token are captured and replayed.");

  m.def(
      "inspect_archive",
      [](const std::filesystem::path& path, const std::string& pattern) {
        ModelInfo info;
        {
          py::gil_scoped_release release;
          info = inspect_torchscript(path, pattern);
        }
        py::dict out;
        out["n_layers"] = info.shape.layers;
        out["width"] = info.shape.width;
        out["widths"] = widths_of(info.shape);
        out["hidden_size"] = info.hidden;
        out["neuron_sites"] = info.neuron_sites;
        out["residual_sites"] = info.residual_sites;
        return out;
      },
      py::arg("path"), py::arg("pattern") = "", "What grafting finds in a TorchScript file.");
  m.attr("down_projection") = kDownProjection;
  m.attr("shared_experts") = kSharedExperts;
  return model;
}

}  // namespace cna::python
