#include "bindings.hpp"
#include "cna/error.hpp"
#include "cna/torch/intervention.hpp"
#include "cna/torch/tensor_traits.hpp"

namespace cna::python {

Site site_from(const std::string& name) {
  for (const Site site : {Site::neuron, Site::mlp_output, Site::residual})
    if (name == site_name(site)) return site;
  throw_value_error("site: expected 'neuron', 'mlp_output' or 'residual', got '{}'; choose one",
                    name);
}

namespace {

Grid grid_from(const char* function, const at::Tensor& means) {
  if (means.dim() != 2)
    throw_value_error(
        "{}: expected means [n_layers, width], got {} dimensions; average recordings over prompts",
        function, means.dim());
  return to_grid(means.detach().to(at::kCPU, at::kDouble));
}

}  // namespace

void bind_steering(py::module_& m) {
  py::class_<Intervention>(m, "Intervention",
                           "Affine edits a <- scale * a + shift, for one or several arms.")
      .def(py::init<int64_t>(), py::arg("arms") = 1)
      .def_static(
          "scale",
          [](const Circuit& c, const std::vector<double>& multipliers) {
            return Intervention::scale(c, multipliers);
          },
          py::arg("circuit"), py::arg("multipliers"),
          "a <- m * a at the circuit's neurons, one arm per multiplier.")
      .def_static("ablate", &Intervention::ablate, py::arg("circuit"), "a <- 0.")
      .def_static(
          "set",
          [](const Circuit& c, const std::vector<double>& values) {
            return Intervention::set(c, values);
          },
          py::arg("circuit"), py::arg("values"), "a <- value, one per neuron in circuit order.")
      .def_static(
          "mean_ablate",
          [](const Circuit& c, const at::Tensor& means) {
            return Intervention::mean_ablate(c, grid_from("mean_ablate", means));
          },
          py::arg("circuit"), py::arg("means"), "a <- the neuron's mean, means [n_layers, width].")
      .def_static(
          "towards",
          [](const Circuit& c, const at::Tensor& target, const std::vector<double>& shares) {
            return Intervention::towards(c, grid_from("towards", target), shares);
          },
          py::arg("circuit"), py::arg("target"), py::arg("shares"),
          "a <- a + c * (target - a), target [n_layers, width], one arm per share.")
      .def_static(
          "shift",
          [](const Circuit& c, const std::vector<double>& coefficients) {
            return Intervention::shift(c, coefficients);
          },
          py::arg("circuit"), py::arg("coefficients"),
          "a <- a - c * delta, one arm per coefficient.")
      .def_static(
          "add",
          [](const std::string& site, int64_t layer, const at::Tensor& vector,
             const std::vector<double>& coefficients) {
            return Intervention::add(site_from(site), layer, vector, coefficients);
          },
          py::arg("site"), py::arg("layer"), py::arg("vector"), py::arg("coefficients"),
          "x <- x + c * vector at a site of one layer, one arm per coefficient.")
      .def_static(
          "bias_logits",
          [](const at::Tensor& bias, const std::vector<double>& coefficients) {
            return Intervention::bias_logits(bias, coefficients);
          },
          py::arg("bias"), py::arg("coefficients"),
          "logits <- logits + c * bias at every place, bias [vocab], one arm per coefficient.")
      .def("then", &Intervention::then, py::arg("next"), "First this, then next.")
      .def_static("concat", &Intervention::concat, py::arg("parts"),
                  "All arms, one after the other.")
      .def(
          "select",
          [](const Intervention& i, const std::vector<int64_t>& arms) { return i.select(arms); },
          py::arg("arms"), "The chosen arms, in that order.")
      .def("from_last", &Intervention::from_last, py::arg("tokens"),
           "The same from the last `tokens` tokens of each prompt on, answers included.")
      .def_property_readonly("arms", &Intervention::arms)
      .def_property_readonly("digest", &Intervention::digest,
                             "16 hexadecimal digits by which an arm is known again.")
      .def_property_readonly("is_identity", &Intervention::is_identity);
}

}  // namespace cna::python
