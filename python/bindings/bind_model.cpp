#include <ATen/ATen.h>

#include <chrono>

#include "bindings.hpp"
#include "cna/error.hpp"
#include "cna/torch/discover.hpp"
#include "cna/torch/generate.hpp"
#include "cna/torch/graft.hpp"
#include "cna/torch/live.hpp"
#include "cna/torch/recorder.hpp"
#include "cna/torch/score.hpp"

namespace cna::python {
namespace {

using Prompts = std::vector<TokenIds>;

/// Lets Python handle Ctrl-C, at most every 50 ms: taps ask far more often.
std::function<void()> signal_poll() {
  return [next = std::chrono::steady_clock::now()]() mutable {
    const auto now = std::chrono::steady_clock::now();
    if (now < next) return;
    next = now + std::chrono::milliseconds(50);
    py::gil_scoped_acquire gil;
    if (PyErr_CheckSignals() != 0) throw py::error_already_set();
  };
}

at::Tensor to_tensor(const Grid& grid) {
  at::Tensor out = at::empty({grid.rows(), grid.cols()}, at::kDouble);
  Eigen::Map<Grid>(out.data_ptr<double>(), grid.rows(), grid.cols()) = grid;
  return out;
}

py::dict moments_dict(const Moments<Grid>& m) {
  py::dict out;
  out["count"] = m.count();
  out["mean"] = to_tensor(m.mean());
  out["m2"] = to_tensor(m.m2());
  return out;
}

Moments<Grid> moments_from(const py::dict& values) {
  const auto grid = [&](const char* name) {
    const at::Tensor t = py::cast<at::Tensor>(values[name]).to(at::kCPU, at::kDouble).contiguous();
    return Grid(Eigen::Map<const Grid>(t.data_ptr<double>(), t.size(0), t.size(1)));
  };
  return Moments<Grid>::of(py::cast<int64_t>(values["count"]), grid("mean"), grid("m2"));
}

DiscoverOptions discover_options(double fraction, std::optional<int64_t> k,
                                 const std::vector<std::pair<int32_t, int32_t>>& universal,
                                 const std::string& ranking) {
  DiscoverOptions out;
  out.fraction = fraction;
  out.k = k;
  for (const auto& [layer, index] : universal) out.universal.push_back({layer, index});
  if (ranking != "mean_difference" && ranking != "effect_size")
    throw_value_error(
        "discover: expected ranking 'mean_difference' or 'effect_size', got '{}'; choose "
        "one",
        ranking);
  out.rank_by_effect_size = ranking == "effect_size";
  return out;
}

/// What a live model's owner says of it.
ModelInfo info_from(const py::dict& d) {
  ModelInfo info;
  info.id = py::cast<std::string>(d["model_id"]);
  info.weights_hash = py::cast<std::string>(d["weights_hash"]);
  info.shape = {py::cast<int64_t>(d["n_layers"]), py::cast<int64_t>(d["width"])};
  info.hidden = py::cast<int64_t>(d["hidden_size"]);
  info.vocab = py::cast<int64_t>(d["vocab_size"]);
  info.max_positions = py::cast<int64_t>(d["max_positions"]);
  info.dtype = py::cast<at::ScalarType>(d["dtype"]);
  info.device = c10::Device(py::cast<std::string>(d["device"]));
  info.eos_ids = py::cast<std::vector<int64_t>>(d["eos_token_ids"]);
  info.neuron_sites = py::cast<std::vector<std::string>>(d["neuron_sites"]);
  info.residual_sites = py::cast<bool>(d["residual_sites"]);
  for (const auto& [heads, key, value] :
       py::cast<std::vector<std::tuple<int64_t, int64_t, int64_t>>>(d["cache"]))
    info.cache.push_back({heads, key, value});
  for (const auto& device : py::cast<std::vector<std::string>>(d["cache_devices"]))
    info.cache_devices.emplace_back(device);
  return info;
}

/// Calls Python with the GIL held; the callables live as long as the host.
std::unique_ptr<Host> live_host(const py::dict& info, const py::function& forward,
                                const py::function& move) {
  // Released under the GIL, wherever the last owner is.
  const auto keep = [](const py::function& f) {
    return std::shared_ptr<py::function>(new py::function(f), [](py::function* held) {
      py::gil_scoped_acquire gil;
      delete held;
    });
  };
  auto run = [f = keep(forward)](const Step& step, Taps& taps) {
    py::gil_scoped_acquire gil;
    auto pointer = c10::intrusive_ptr<Taps>::reclaim_copy(&taps);
    return py::cast<at::Tensor>(
        (*f)(step.ids, step.mask, step.positions, step.keep, step.cache, pointer));
  };
  auto to = [f = keep(move)](c10::Device device) {
    py::gil_scoped_acquire gil;
    (*f)(device.str());
  };
  return std::make_unique<LiveHost>(info_from(info), std::move(run), std::move(to));
}

/// The keyword arguments that every run takes.
auto run_arguments() {
  return std::make_tuple(py::arg_v("intervention", Intervention(1), "Intervention()"),
                         py::arg("arms") = std::vector<int64_t>(), py::arg("batch_rows") = 64,
                         py::arg("batch_tokens") = 0, py::arg("share_prefix") = true,
                         py::arg("progress") = py::none());
}

}  // namespace

RunOptions run_options(const Intervention& intervention, std::vector<int64_t> arms,
                       int64_t batch_rows, int64_t batch_tokens, bool share_prefix,
                       const py::object& progress) {
  RunOptions out;
  out.intervention = intervention;
  out.arm_of_prompt = std::move(arms);
  out.batch_rows = batch_rows;
  out.batch_tokens = batch_tokens;
  out.share_prefix = share_prefix;
  out.poll = signal_poll();
  if (!progress.is_none()) {
    // The caller keeps `progress` alive for the length of the call.
    out.progress = [handle = progress.ptr()](int64_t done, int64_t total) {
      py::gil_scoped_acquire gil;
      py::reinterpret_borrow<py::object>(handle)(done, total);
    };
  }
  return out;
}

void bind_model(py::module_& m) {
  py::class_<UniversalCounter>(m, "UniversalCounter",
                               "Counts how often each neuron is among a prompt's strongest.")
      .def(py::init([](std::pair<int64_t, int64_t> shape, double top_fraction) {
             return UniversalCounter({shape.first, shape.second}, top_fraction);
           }),
           py::arg("shape"), py::arg("top_fraction") = 0.001)
      .def(
          "add",
          [](UniversalCounter& c, const at::Tensor& activations) {
            const at::Tensor a = activations.detach().to(at::kCPU, at::kFloat).contiguous();
            c.add(std::span<const float>(a.data_ptr<float>(), static_cast<size_t>(a.numel())));
          },
          py::arg("activations"), "Takes one prompt, [n_layers, width].")
      .def("merge", &UniversalCounter::merge, py::arg("other"))
      .def_property_readonly("prompts", &UniversalCounter::prompts)
      .def_property_readonly(
          "counts",
          [](const UniversalCounter& c) {
            at::Tensor out = at::empty({c.shape().layers, c.shape().width}, at::kInt);
            std::copy_n(c.counts().data(), out.numel(), out.data_ptr<int32_t>());
            return out;
          },
          "int32 [n_layers, width]")
      .def(
          "universal",
          [](const UniversalCounter& c, double share) {
            std::vector<std::pair<int32_t, int32_t>> out;
            for (const NeuronId id : c.universal(share)) out.emplace_back(id.layer, id.index);
            return out;
          },
          py::arg("share") = 0.8,
          "(layer, index) of neurons hit in at least `share` of the prompts.");

  py::class_<Taps, c10::intrusive_ptr<Taps>>(
      m, "Taps", "The taps of one model, called by a live model's hooks.")
      .def(
          "apply",
          [](Taps& t, const at::Tensor& x, int64_t slot, int64_t first,
             const std::optional<py::function>& gather) {
            const TapShard shard{first, [&](const at::Tensor& part) {
                                   return py::cast<at::Tensor>((*gather)(part));
                                 }};
            try {
              return t.apply(x, slot, gather ? &shard : nullptr);
            } catch (py::error_already_set&) {  // Python carries it from here, and only once
              t.stopped = nullptr;
              throw;
            }
          },
          py::arg("x"), py::arg("slot"), py::arg("first") = 0, py::arg("gather") = py::none(),
          "Records and edits x [rows, tokens, features]; returns it, or a changed copy. With "
          "`gather`, x holds the features from `first` on, and gather makes a recording whole.")
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
             const std::string& device, bool verify) {
            py::gil_scoped_release release;
            return Model::load(path, {pattern, c10::Device(device), verify});
          },
          py::arg("path"), py::arg("pattern") = "", py::arg("device") = "cpu",
          py::arg("verify") = true,
          "Opens an exported folder, or any traced TorchScript language model.")
      .def_static(
          "live",
          [](const py::dict& info, const py::function& forward, const py::function& move) {
            return Model(live_host(info, forward, move));
          },
          py::arg("info"), py::arg("forward"), py::arg("move"),
          "A model that Python runs: forward(ids, mask, positions, keep, cache, taps) -> logits.")
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
      .def_property_readonly("id", [](const Model& s) { return s.info().id; })
      .def_property_readonly("weights_hash", [](const Model& s) { return s.info().weights_hash; })
      .def_property_readonly(
          "shape",
          [](const Model& s) { return std::pair(s.info().shape.layers, s.info().shape.width); },
          "(n_layers, width)")
      .def_property_readonly("hidden", [](const Model& s) { return s.info().hidden; })
      .def_property_readonly("vocab", [](const Model& s) { return s.info().vocab; })
      .def_property_readonly("max_positions", [](const Model& s) { return s.info().max_positions; })
      .def_property_readonly("dtype", [](const Model& s) { return c10::toString(s.info().dtype); })
      .def_property_readonly("device", [](const Model& s) { return s.info().device.str(); })
      .def_property_readonly("eos_ids", [](const Model& s) { return s.info().eos_ids; })
      .def_property_readonly("neuron_sites", [](const Model& s) { return s.info().neuron_sites; })
      .def_property_readonly("has_cache", [](const Model& s) { return s.info().has_cache(); })
      .def_property_readonly("has_residual_sites",
                             [](const Model& s) { return s.info().residual_sites; });

  std::apply(
      [&](const auto&... run) {
        model.def(
            "record",
            [](Model& self, const Prompts& prompts, const std::string& site,
               const Intervention& intervention, std::vector<int64_t> arms, int64_t rows,
               int64_t tokens, bool share, const py::object& progress) {
              const auto options =
                  run_options(intervention, std::move(arms), rows, tokens, share, progress);
              py::gil_scoped_release release;
              return record_all(self, prompts, site_from(site), options);
            },
            py::arg("prompts"), py::arg("site"), run...,
            "Last-token activations, float32 [n_prompts, n_layers, features].");
        model.def(
            "record_stream",
            [](Model& self, const Prompts& prompts, const std::string& site, const py::object& sink,
               const Intervention& intervention, std::vector<int64_t> arms, int64_t rows,
               int64_t tokens, bool share, const py::object& progress) {
              const auto options =
                  run_options(intervention, std::move(arms), rows, tokens, share, progress);
              py::gil_scoped_release release;
              record(self, prompts, site_from(site), options,
                     [&](std::span<const int64_t> which, const at::Tensor& activations) {
                       py::gil_scoped_acquire gil;
                       sink(std::vector<int64_t>(which.begin(), which.end()), activations);
                     });
            },
            py::arg("prompts"), py::arg("site"), py::arg("sink"), run...,
            "Calls sink(rows, activations [rows, n_layers, features]) batch by batch.");
        model.def(
            "logits",
            [](Model& self, const Prompts& prompts, const Intervention& intervention,
               std::vector<int64_t> arms, int64_t rows, int64_t tokens, bool share,
               const py::object& progress) {
              const auto options =
                  run_options(intervention, std::move(arms), rows, tokens, share, progress);
              py::gil_scoped_release release;
              return last_logits(self, prompts, options);
            },
            py::arg("prompts"), run..., "Logits behind each prompt, float32 [n_prompts, vocab].");
        model.def(
            "generate",
            [](Model& self, const Prompts& prompts, int64_t max_new_tokens, double temperature,
               int64_t top_k, double top_p, uint64_t seed, std::vector<int64_t> eos_ids,
               bool ignore_eos, const Intervention& intervention, std::vector<int64_t> arms,
               int64_t rows, int64_t tokens, bool share, const py::object& progress) {
              const auto options =
                  run_options(intervention, std::move(arms), rows, tokens, share, progress);
              const GenerateOptions generation{max_new_tokens, temperature,        top_k,     top_p,
                                               seed,           std::move(eos_ids), ignore_eos};
              py::gil_scoped_release release;
              return generate(self, prompts, generation, options);
            },
            py::arg("prompts"), py::arg("max_new_tokens") = 64, py::arg("temperature") = 0.0,
            py::arg("top_k") = 0, py::arg("top_p") = 1.0, py::arg("seed") = 0,
            py::arg("eos_ids") = std::vector<int64_t>(), py::arg("ignore_eos") = false, run...,
            "Answers as token ids, without prompt and end token.");
        model.def(
            "log_likelihood",
            [](Model& self, const Prompts& prompts, const Prompts& continuations,
               const Intervention& intervention, std::vector<int64_t> arms, int64_t rows,
               int64_t tokens, bool share, const py::object& progress) {
              const auto options =
                  run_options(intervention, std::move(arms), rows, tokens, share, progress);
              py::gil_scoped_release release;
              return log_likelihood(self, prompts, continuations, options);
            },
            py::arg("prompts"), py::arg("continuations"), run...,
            "Sum of log probabilities of each continuation, nats, float64 [n].");
        model.def(
            "divergence",
            [](Model& self, const Prompts& prompts, const Prompts& continuations,
               const Intervention& intervention, std::vector<int64_t> arms, int64_t rows,
               int64_t tokens, bool share, const py::object& progress) {
              const auto options =
                  run_options(intervention, std::move(arms), rows, tokens, share, progress);
              py::gil_scoped_release release;
              Divergence out = divergence(self, prompts, continuations, options);
              return std::pair(out.kl, out.log_likelihood);
            },
            py::arg("prompts"), py::arg("continuations"), run...,
            "(KL from arm 0, log likelihood), each float64 [arms, n].");
        model.def(
            "contrast",
            [](Model& self, const Prompts& positive, const Prompts& negative,
               const Intervention& intervention, std::vector<int64_t> arms, int64_t rows,
               int64_t tokens, bool share, const py::object& progress) {
              const auto options =
                  run_options(intervention, std::move(arms), rows, tokens, share, progress);
              Contrast both;
              {
                py::gil_scoped_release release;
                both = contrast(self, positive, negative, options);
              }
              return std::pair(moments_dict(both.positive), moments_dict(both.negative));
            },
            py::arg("positive"), py::arg("negative"), run...,
            "Moments of both sets: dicts of count, mean and m2, float64 [n_layers, width].");
        model.def(
            "count_universal",
            [](Model& self, const Prompts& prompts, double top_fraction,
               const Intervention& intervention, std::vector<int64_t> arms, int64_t rows,
               int64_t tokens, bool share, const py::object& progress) {
              const auto options =
                  run_options(intervention, std::move(arms), rows, tokens, share, progress);
              py::gil_scoped_release release;
              return count_universal(self, prompts, top_fraction, options);
            },
            py::arg("prompts"), py::arg("top_fraction") = 0.001, run...);
        model.def(
            "discover",
            [](Model& self, const Prompts& positive, const Prompts& negative, double fraction,
               std::optional<int64_t> k, const std::vector<std::pair<int32_t, int32_t>>& universal,
               const std::string& ranking, const Intervention& intervention,
               std::vector<int64_t> arms, int64_t rows, int64_t tokens, bool share,
               const py::object& progress) {
              const auto options =
                  run_options(intervention, std::move(arms), rows, tokens, share, progress);
              const auto discovery = discover_options(fraction, k, universal, ranking);
              py::gil_scoped_release release;
              return discover(self, positive, negative, discovery, options);
            },
            py::arg("positive"), py::arg("negative"), py::arg("fraction") = 0.001,
            py::arg("k") = py::none(),
            py::arg("universal") = std::vector<std::pair<int32_t, int32_t>>(),
            py::arg("ranking") = "mean_difference", run...);
      },
      run_arguments());

  model.def(
      "select",
      [](const Model& self, const py::dict& positive, const py::dict& negative, double fraction,
         std::optional<int64_t> k, const std::vector<std::pair<int32_t, int32_t>>& universal,
         const std::string& ranking) {
        return select_circuit(self.info(), {moments_from(positive), moments_from(negative)},
                              discover_options(fraction, k, universal, ranking));
      },
      py::arg("positive"), py::arg("negative"), py::arg("fraction") = 0.001,
      py::arg("k") = py::none(), py::arg("universal") = std::vector<std::pair<int32_t, int32_t>>(),
      py::arg("ranking") = "mean_difference", "The circuit of two sets' moments.");
  m.def(
      "merge_moments",
      [](const py::dict& a, const py::dict& b) {
        const auto read = [](const py::dict& d) {  // tensors as they are: grids can be large
          return Moments<at::Tensor>::of(py::cast<int64_t>(d["count"]),
                                         py::cast<at::Tensor>(d["mean"]),
                                         py::cast<at::Tensor>(d["m2"]));
        };
        Moments<at::Tensor> sum = read(a);
        sum.merge(read(b));
        py::dict out;
        out["count"] = sum.count();
        out["mean"] = sum.mean();
        out["m2"] = sum.m2();
        return out;
      },
      py::arg("a"), py::arg("b"), "Moments of both streams together, exact (Chan et al. 1983).");
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
        out["hidden_size"] = info.hidden;
        out["neuron_sites"] = info.neuron_sites;
        out["residual_sites"] = info.residual_sites;
        return out;
      },
      py::arg("path"), py::arg("pattern") = "", "What grafting finds in a TorchScript file.");
  m.def(
      "common_prefix", [](const Prompts& prompts) { return common_prefix(prompts); },
      py::arg("prompts"), "Tokens shared by all prompts, leaving each one of its own.");
  m.attr("down_projection") = kDownProjection;
  m.def("unpad", &unpad, py::arg("input_ids"), py::arg("attention_mask"),
        "Rows without padding, whichever side it is on.");
}

}  // namespace cna::python
