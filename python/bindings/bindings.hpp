/// What the files of the Python module share: one function per bound group.
#pragma once

#include <pybind11/stl.h>
#include <pybind11/stl/filesystem.h>
#include <torch/csrc/utils/pybind.h>

#include <string>

#include "cna/torch/model.hpp"

namespace cna::python {

namespace py = pybind11;

void bind_circuit(py::module_& m);     // neurons, circuits, their files
void bind_statistics(py::module_& m);  // intervals, overlaps, text quality
void bind_steering(py::module_& m);    // interventions
void bind_model(py::module_& m);       // load, record, generate, discover

/// "neuron", "mlp_output" or "residual".
Site site_from(const std::string& name);

/// Run options as keyword arguments pass them. `progress` is None or a callable (done, total).
RunOptions run_options(const Intervention& intervention, std::vector<int64_t> arms,
                       int64_t batch_rows, int64_t batch_tokens, bool share_prefix,
                       const py::object& progress);

}  // namespace cna::python
