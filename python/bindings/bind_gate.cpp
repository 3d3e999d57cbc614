#include "bindings.hpp"
#include "cna/torch/gate.hpp"
#include "cna/torch/watch.hpp"

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
          "token_scores",
          [](const Gate& gate, Model& model, const Prompts& prompts, const py::kwargs& run) {
            const RunOptions options = run_options(run);
            py::gil_scoped_release release;
            return gate.token_scores(model, prompts, options);
          },
          py::arg("model"), py::arg("prompts"), "One score a token of each prompt.")
      .def("score_of", &Gate::score_of, py::arg("activations"),
           "Scores of activations [..., neurons] in the circuit's order, float64 [...].")
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
  py::class_<Watch>(m, "Watch", "Reads a gate's score while answers are written.")
      .def(py::init([](const Gate& gate, const std::optional<py::function>& listener) {
             if (!listener) return Watch(gate);
             return Watch(gate, [f = kept(*listener)](int64_t prompt, int64_t token, double s) {
               py::gil_scoped_acquire gil;
               (*f)(prompt, token, s);
             });
           }),
           py::arg("gate"), py::arg("listener") = py::none(),
           "listener(prompt, token, score) is called before that token is known.")
      .def_property_readonly("gate", &Watch::gate)
      .def_property_readonly("scores", &Watch::scores,
                             "Of each prompt of the last run, one for each token of its answer.")
      .def_property_readonly("fired", &Watch::fired,
                             "Of each prompt, whether a score passed the gate's threshold.");
}

}  // namespace cna::python
