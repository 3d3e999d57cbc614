/// What the files of the Python module share: one function per bound group.
#pragma once

#include <pybind11/stl.h>
#include <pybind11/stl/filesystem.h>
#include <torch/csrc/utils/pybind.h>

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "cna/torch/model.hpp"
#include "cna/torch/tokens.hpp"

namespace cna::python {

namespace py = pybind11;

void bind_circuit(py::module_& m);                             // neurons, circuits, their files
void bind_statistics(py::module_& m);                          // intervals, overlaps, text quality
void bind_steering(py::module_& m);                            // interventions
void bind_capture(py::module_& m);                             // who captures steps
void bind_gate(py::module_& m);                                // gates on prompts
py::class_<Model> bind_host(py::module_& m);                   // load, live, move; taps
void bind_record(py::module_& m, py::class_<Model>& model);    // record, contrast, vectors
void bind_discover(py::module_& m, py::class_<Model>& model);  // rankings, selection, discovery
void bind_generate(py::module_& m, py::class_<Model>& model);  // answers, likelihoods, sweeps

using Prompts = std::vector<TokenIds>;

/// Neurons of each layer.
[[nodiscard]] inline std::vector<int64_t> widths_of(const GridShape& shape) {
  if (!shape.widths.empty()) return shape.widths;
  return std::vector<int64_t>(static_cast<size_t>(shape.layers), shape.width);
}

/// (count, width) of each layer's experts; empty where no layer has any.
using ExpertPairs = std::vector<std::pair<int64_t, int64_t>>;
[[nodiscard]] inline ExpertPairs experts_of(const GridShape& shape) {
  ExpertPairs out;
  for (const Experts& here : shape.experts) out.emplace_back(here.count, here.width);
  return out;
}
[[nodiscard]] inline std::vector<Experts> experts_from(const ExpertPairs& pairs) {
  std::vector<Experts> out;
  for (const auto& [count, width] : pairs) out.push_back({count, width});
  return out;
}

/// A callable that C++ may keep: released under the GIL, wherever the last owner is.
[[nodiscard]] inline std::shared_ptr<py::function> kept(const py::function& f) {
  return std::shared_ptr<py::function>(new py::function(f), [](py::function* held) {
    py::gil_scoped_acquire gil;
    delete held;
  });
}

/// "neuron", "mlp_output" or "residual".
Site site_from(const std::string& name);

/// What GenerateOptions::on_token calls: listener(prompt, token), or nothing for None.
[[nodiscard]] inline std::function<void(int64_t, int64_t)> token_listener(
    const std::optional<py::function>& listener) {
  if (!listener) return {};
  return [f = kept(*listener)](int64_t prompt, int64_t token) {
    py::gil_scoped_acquire gil;
    (*f)(prompt, token);
  };
}

/// The keyword arguments that every run takes: intervention, arms, batch_rows, batch_tokens,
/// share_prefix, progress (None or a callable of done and total). Throws TypeError for another.
RunOptions run_options(const py::kwargs& keywords);

}  // namespace cna::python
