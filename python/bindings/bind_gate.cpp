#include "bindings.hpp"
#include "cna/torch/gate.hpp"

namespace cna::python {

void bind_gate(py::module_& m) {
  py::class_<Gate>(m, "Gate", "Says of a prompt whether a circuit fires on it.")
      .def(py::init([](const Circuit& circuit, const std::vector<double>& mean,
                       const std::vector<double>& sd, double threshold, double true_positives,
                       double false_positives) {
             return Gate(circuit, mean, sd, {threshold, true_positives, false_positives});
           }),
           py::arg("circuit"), py::arg("mean"), py::arg("sd"), py::arg("threshold"),
           py::arg("true_positives"), py::arg("false_positives"))
      .def_static(
          "fit",
          [](Model& model, const Circuit& circuit, const Prompts& positive, const Prompts& negative,
             double false_positives, const py::kwargs& run) {
            const RunOptions options = run_options(run);
            py::gil_scoped_release release;
            return Gate::fit(model, circuit, positive, negative, false_positives, options);
          },
          py::arg("model"), py::arg("circuit"), py::arg("positive"), py::arg("negative"),
          py::arg("false_positives") = 0.05)
      .def(
          "scores",
          [](const Gate& gate, Model& model, const Prompts& prompts, const py::kwargs& run) {
            const RunOptions options = run_options(run);
            py::gil_scoped_release release;
            return gate.scores(model, prompts, options);
          },
          py::arg("model"), py::arg("prompts"), "One score a prompt.")
      .def(
          "arms",
          [](const Gate& gate, Model& model, const Prompts& prompts, const py::kwargs& run) {
            const RunOptions options = run_options(run);
            py::gil_scoped_release release;
            return gate.arms(model, prompts, options);
          },
          py::arg("model"), py::arg("prompts"), "1 for prompts that pass, else 0.")
      .def_property_readonly("circuit", &Gate::circuit)
      .def_property_readonly("mean", &Gate::mean, "One per neuron, in the circuit's order.")
      .def_property_readonly("sd", &Gate::sd, "Likewise.")
      .def_property_readonly("threshold", [](const Gate& g) { return g.threshold().value; })
      .def_property_readonly("true_positives",
                             [](const Gate& g) { return g.threshold().true_positives; })
      .def_property_readonly("false_positives",
                             [](const Gate& g) { return g.threshold().false_positives; });
}

}  // namespace cna::python
