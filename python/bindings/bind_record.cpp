#include <ATen/ATen.h>

#include "bind_moments.hpp"
#include "bindings.hpp"
#include "cna/error.hpp"
#include "cna/torch/control.hpp"
#include "cna/torch/discover.hpp"
#include "cna/torch/steering_vector.hpp"
#include "cna/torch/token_recorder.hpp"

namespace cna::python {
namespace {

using Counter = BasicUniversalCounter<at::Tensor>;

void bind_universal(py::module_& m) {
  py::class_<Counter>(m, "UniversalCounter",
                      "Counts how often each neuron is among a prompt's strongest.")
      .def(py::init([](const std::vector<int64_t>& widths, double top_fraction) {
             return Counter(GridShape::of(widths), top_fraction);
           }),
           py::arg("widths"), py::arg("top_fraction") = 0.001)
      .def(
          "add",
          [](Counter& c, const at::Tensor& activations) {
            const at::Tensor a = activations.detach().to(at::kFloat);
            if (a.numel() != c.shape().places())
              throw_value_error(
                  "UniversalCounter.add: expected {} x {} activations, got {}; pass those of one "
                  "prompt",
                  c.shape().layers, c.shape().width, a.numel());
            const at::Tensor layers = a.reshape({c.shape().layers, 1, c.shape().width});
            for (int64_t layer = 0; layer < c.shape().layers; ++layer)
              c.add(layer, {}, layers[layer]);
            c.end_batch();
          },
          py::arg("activations"), "Takes one prompt, [n_layers, width].")
      .def("merge", &Counter::merge, py::arg("other"))
      .def_property_readonly("prompts", &Counter::prompts)
      .def_property_readonly(
          "counts",
          [](const Counter& c) {
            return at::tensor(c.hits(), at::kInt).reshape({c.shape().layers, c.shape().width});
          },
          "int32 [n_layers, width]")
      .def(
          "universal",
          [](const Counter& c, double share) {
            Places out;
            for (const NeuronId id : c.universal(share)) out.emplace_back(id.layer, id.index);
            return out;
          },
          py::arg("share") = 0.8,
          "(layer, index) of neurons hit in at least `share` of the prompts.");
  m.def(
      "universal_threshold",
      [](int64_t prompts, double share) { return universal_threshold(prompts, share); },
      py::arg("prompts"), py::arg("share") = 0.8,
      "In how many of these prompts a neuron must be a hit.");
}

}  // namespace

void bind_record(py::module_& m, py::class_<Model>& model) {
  bind_universal(m);
  model.def(
      "record",
      [](Model& self, const Prompts& prompts, const std::string& site, const py::kwargs& run) {
        const RunOptions options = run_options(run);
        py::gil_scoped_release release;
        return record_all(self, prompts, site_from(site), options);
      },
      py::arg("prompts"), py::arg("site"),
      "Last-token activations, float32 [n_prompts, n_layers, features].");
  model.def(
      "record_stream",
      [](Model& self, const Prompts& prompts, const std::string& site, const py::object& sink,
         const py::kwargs& run) {
        const RunOptions options = run_options(run);
        py::gil_scoped_release release;
        record(self, prompts, site_from(site), options,
               [&](std::span<const int64_t> which, const at::Tensor& activations) {
                 py::gil_scoped_acquire gil;
                 sink(std::vector<int64_t>(which.begin(), which.end()), activations);
               });
      },
      py::arg("prompts"), py::arg("site"), py::arg("sink"),
      "Calls sink(rows, activations [rows, n_layers, features]) batch by batch.");
  model.def(
      "record_tokens",
      [](Model& self, const Prompts& prompts, const Circuit& circuit, const py::object& sink,
         const py::kwargs& run) {
        const RunOptions options = run_options(run);
        py::gil_scoped_release release;
        record_tokens(self, prompts, circuit, options,
                      [&](int64_t prompt, const at::Tensor& activations) {
                        py::gil_scoped_acquire gil;
                        sink(prompt, activations);
                      });
      },
      py::arg("prompts"), py::arg("circuit"), py::arg("sink"),
      "Calls sink(prompt, activations [tokens, neurons]) for each prompt, in the circuit's order.");
  model.def(
      "contrast",
      [](Model& self, const Prompts& positive, const Prompts& negative, const std::string& site,
         const py::kwargs& run) {
        const RunOptions options = run_options(run);
        DeviceContrast both;
        {
          py::gil_scoped_release release;
          both = device_contrast(self, positive, negative, options, site_from(site));
        }
        return contrast_dicts(both);
      },
      py::arg("positive"), py::arg("negative"), py::arg("site") = "neuron",
      "Moments of both sets: dicts of count, mean and m2, float64 [n_layers, features].");
  model.def(
      "steering_vectors",
      [](Model& self, const Prompts& positive, const Prompts& negative, const std::string& site,
         const py::kwargs& run) {
        const RunOptions options = run_options(run);
        py::gil_scoped_release release;
        return steering_vectors(self, positive, negative, site_from(site), options).vectors;
      },
      py::arg("positive"), py::arg("negative"), py::arg("site") = "residual",
      "Mean over positive minus mean over negative prompts, float64 [n_layers, features].");
  model.def(
      "count_universal",
      [](Model& self, const Prompts& prompts, double top_fraction, const py::kwargs& run) {
        const RunOptions options = run_options(run);
        py::gil_scoped_release release;
        Counter counter(self.shape(), top_fraction);
        record(self, prompts, options, at<Site::neuron>(counter));
        return counter;
      },
      py::arg("prompts"), py::arg("top_fraction") = 0.001);
  m.def(
      "merge_moments",
      [](const py::dict& a, const py::dict& b) {
        Moments<at::Tensor> sum = moments_from(a);
        sum.merge(moments_from(b));
        return moments_dict(sum);
      },
      py::arg("a"), py::arg("b"), "Moments of both streams together, exact (Chan et al. 1983).");
  m.def("random_like", &random_like, py::arg("circuit"), py::arg("seed") = 0,
        py::arg("avoid") = true, "Random neurons, as many in each layer as the circuit has.");
  m.def(
      "prompt_hash",
      [](const std::vector<Prompts>& sets) {
        std::vector<std::span<const TokenIds>> spans(sets.begin(), sets.end());
        return prompt_hash(spans);
      },
      py::arg("sets"), "Hash of sets of prompts as token ids, 16 hexadecimal digits.");
  m.def(
      "common_prefix", [](const Prompts& prompts) { return common_prefix(prompts); },
      py::arg("prompts"), "Tokens shared by all prompts, leaving each one of its own.");
  m.def("unpad", &unpad, py::arg("input_ids"), py::arg("attention_mask"),
        "Rows without padding, whichever side it is on.");
}

}  // namespace cna::python
