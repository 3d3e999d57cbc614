#include "bind_moments.hpp"
#include "bindings.hpp"
#include "cna/error.hpp"
#include "cna/torch/contribution.hpp"
#include "cna/torch/ranking.hpp"
#include "cna/torch/reading.hpp"

namespace cna::python {
namespace {

Ranking ranking_from(const std::string& name) {
  for (const Ranking known : kRankings)
    if (name == ranking_name(known)) return known;
  throw_value_error(
      "discover: expected ranking 'mean_difference', 'effect_size', 'contribution', 'residual' or "
      "'direction', got '{}'; choose one",
      name);
}

/// The keywords of every selection; what is left in `run` are those of a run.
DiscoverOptions take_selection(py::kwargs& run) {
  DiscoverOptions out;
  const auto take = [&](const char* name, auto use) {
    if (!run.contains(name)) return;
    const py::object value = run[name];
    PyDict_DelItemString(run.ptr(), name);
    if (!value.is_none()) use(value);
  };
  take("fraction", [&](const py::object& v) { out.fraction = py::cast<double>(v); });
  take("k", [&](const py::object& v) { out.k = py::cast<int64_t>(v); });
  take("universal", [&](const py::object& v) {
    for (const auto& [layer, index] : py::cast<Places>(v)) out.universal.push_back({layer, index});
  });
  take("ranking",
       [&](const py::object& v) { out.ranking = ranking_from(py::cast<std::string>(v)); });
  take("penalty", [&](const py::object& v) { out.penalty = py::cast<double>(v); });
  take("side", [&](const py::object& v) {
    const auto name = py::cast<std::string>(v);
    if (name != "positive" && name != "both")
      throw_value_error("discover: expected side 'positive' or 'both', got '{}'; choose one", name);
    out.side = name == "positive" ? Side::positive : Side::both;
  });
  take("layers", [&](const py::object& v) {
    const auto [first, last] = py::cast<std::pair<int64_t, int64_t>>(v);
    out.layers = {first, last};
  });
  take("direction", [&](const py::object& v) { out.direction = py::cast<at::Tensor>(v); });
  take("direction_layer", [&](const py::object& v) { out.direction_layer = py::cast<int64_t>(v); });
  return out;
}

constexpr const char* kSelection =
    "Keywords: fraction, k, universal, ranking, penalty, side, layers, direction, direction_layer";

}  // namespace

void bind_discover(py::module_& m, py::class_<Model>& model) {
  model.def(
      "logits_written",
      [](Model& self, const Circuit& circuit) {
        py::gil_scoped_release release;
        return logits_written(self, circuit);
      },
      py::arg("circuit"),
      "What a unit of each neuron adds to the logits, float32 [neurons, vocab].");
  py::class_<ContributionParts>(m, "ContributionParts",
                                "What a ranking by contribution is made of, for any penalty.")
      .def_property_readonly(
          "contrast", [](const ContributionParts& p) { return contrast_dicts(p.contrast); },
          "Moments of both sets.")
      .def_property_readonly(
          "direction", [](const ContributionParts& p) { return p.direction.to(at::kCPU); },
          "float64 [hidden]")
      .def_property_readonly(
          "difference_along",
          [](const ContributionParts& p) {
            return (mean_difference(p.contrast.positive, p.contrast.negative) * p.writes.along)
                .to(at::kCPU);
          },
          "delta * (write . u), float64 [n_layers, width]: the ranking by direction along u.")
      .def(
          "score",
          [](const ContributionParts& p, double penalty) { return p.score(penalty).to(at::kCPU); },
          py::arg("penalty") = 0.1, "float64 [n_layers, width]");
  model.def(
      "discover",
      [](Model& self, const Prompts& positive, const Prompts& negative, py::kwargs run) {
        const DiscoverOptions discovery = take_selection(run);
        const RunOptions options = run_options(run);
        py::gil_scoped_release release;
        return discover(self, positive, negative, discovery, options);
      },
      py::arg("positive"), py::arg("negative"), kSelection);
  model.def(
      "contribution_parts",
      [](Model& self, const Prompts& positive, const Prompts& negative, const py::kwargs& run) {
        const RunOptions options = run_options(run);
        py::gil_scoped_release release;
        return contribution_parts(self, positive, negative, options);
      },
      py::arg("positive"), py::arg("negative"));
  model.def(
      "scores",
      [](Model& self, const Prompts& positive, const Prompts& negative, py::kwargs run) {
        const DiscoverOptions discovery = take_selection(run);
        const RunOptions options = run_options(run);
        ScoredContrast scored;
        {
          py::gil_scoped_release release;
          scored = score_neurons(self, positive, negative, discovery, options);
        }
        return py::make_tuple(contrast_dicts(scored.contrast), scored.score.to(at::kCPU));
      },
      py::arg("positive"), py::arg("negative"),
      "((moments of either set), score float64 [n_layers, width]) of any ranking.");
  model.def(
      "select",
      [](const Model& self, const py::dict& positive, const py::dict& negative,
         const std::optional<at::Tensor>& score, py::kwargs selection) {
        const DiscoverOptions options = take_selection(selection);
        (void)run_options(selection);  // says what is misspelt
        const DeviceContrast both = contrast_from(positive, negative);
        if (!score) return select_circuit(self.info(), both, options);
        return select_scored(self.info(), {both, score->to(at::kCPU, at::kDouble)}, options);
      },
      py::arg("positive"), py::arg("negative"), py::arg("score") = py::none(),
      "The circuit of two sets' moments, by a score of your own where given.");
  model.def(
      "difference_written",
      [](Model& self, const Circuit& circuit) {
        py::gil_scoped_release release;
        std::map<int64_t, at::Tensor> out = difference_written(self, circuit);
        for (auto& [layer, vector] : out) vector = vector.to(at::kCPU);
        return out;
      },
      py::arg("circuit"), "Layer -> sum of delta * write over the circuit, float64 [hidden].");
  m.def("coverage", &coverage, py::arg("score"), py::arg("circuit"),
        "Share of the scores' sum that the circuit's neurons hold.");
}

}  // namespace cna::python
