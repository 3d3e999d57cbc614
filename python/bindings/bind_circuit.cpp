#include <fmt/ranges.h>

#include <set>

#include "bindings.hpp"
#include "cna/circuit.hpp"
#include "cna/error.hpp"

namespace cna::python {
namespace {

py::dict provenance_to_dict(const Provenance& provenance) {
  const py::object loads = py::module_::import("json").attr("loads");
  py::dict out;
  for (const auto& [name, value] : provenance) out[py::str(name)] = loads(value);
  return out;
}

Provenance provenance_from_dict(const py::dict& values) {
  const py::object dumps = py::module_::import("json").attr("dumps");
  Provenance out;
  for (const auto& [name, value] : values)
    out[py::cast<std::string>(name)] = py::cast<std::string>(dumps(value));
  // In the form that a file has, so that a circuit equals itself after saving and loading.
  return circuit_from_json(to_json(Circuit({1, 1}, {}, std::move(out)))).provenance();
}

/// The shape of layers that differ in width, or of even ones.
GridShape shape_from(std::pair<int64_t, int64_t> shape,
                     const std::optional<std::vector<int64_t>>& widths,
                     const ExpertPairs& experts) {
  GridShape even{shape.first, shape.second};
  if (!widths) {
    even.experts = GridShape::of({}, experts_from(experts)).experts;
    return even;
  }
  for (const int64_t width : *widths)
    if (width < 0)
      throw_value_error("Circuit: expected widths of 0 or more, got {}; pass the model's", width);
  GridShape out = GridShape::of(*widths, experts_from(experts));
  if (out.layers != even.layers || out.width != even.width)
    throw_value_error(
        "Circuit: expected a width for each of {} layers, the largest {}, got {} up to {}; pass "
        "the model's widths",
        even.layers, even.width, out.layers, out.width);
  return out;
}

std::vector<NeuronId> ids_from(const std::vector<std::pair<int64_t, int64_t>>& pairs,
                               const GridShape& shape) {
  std::vector<NeuronId> out;
  for (const auto& [layer, index] : pairs) {
    if (!shape.contains(layer, index))
      throw_index_error(
          "Circuit: expected neurons inside {}, got ({}, {}); use those of this "
          "model",
          shape.text(), layer, index);
    out.push_back({static_cast<int32_t>(layer), static_cast<int32_t>(index)});
  }
  return out;
}

std::vector<std::pair<int64_t, int64_t>> pairs_from(const std::vector<NeuronId>& ids) {
  std::vector<std::pair<int64_t, int64_t>> out;
  for (const NeuronId id : ids) out.emplace_back(id.layer, id.index);
  return out;
}

}  // namespace

void bind_circuit(py::module_& m) {
  py::class_<Neuron>(m, "Neuron", "One MLP neuron: a place in the model and its signed contrast.")
      .def(py::init([](int64_t layer, int64_t index, double delta) {
             constexpr int64_t most = std::numeric_limits<int32_t>::max();
             if (layer < 0 || index < 0 || layer > most || index > most)
               throw_index_error(
                   "Neuron: expected layer and index of 0 or more, got {} and {}; count "
                   "from 0",
                   layer, index);
             return Neuron{static_cast<int32_t>(layer), static_cast<int32_t>(index), delta};
           }),
           py::arg("layer"), py::arg("index"), py::arg("delta") = 0.0)
      .def_readonly("layer", &Neuron::layer, "Layer, counted from 0.")
      .def_readonly("index", &Neuron::index, "Entry of the vector that enters the down projection.")
      .def_readonly("delta", &Neuron::delta, "Mean over positive minus mean over negative prompts.")
      .def("__eq__", [](const Neuron& a, const Neuron& b) { return a == b; })
      .def("__hash__", [](const Neuron& n) { return std::hash<NeuronId>{}(n.id()); })
      .def("__iter__",
           [](const Neuron& n) { return py::iter(py::make_tuple(n.layer, n.index, n.delta)); })
      .def("__repr__", [](const Neuron& n) {
        return fmt::format("Neuron(layer={}, index={}, delta={:.4g})", n.layer, n.index, n.delta);
      });

  py::class_<Overlap>(m, "Overlap", "How two circuits of one model overlap.")
      .def_readonly("left", &Overlap::left, "Neurons in the left circuit.")
      .def_readonly("right", &Overlap::right, "Neurons in the right circuit.")
      .def_readonly("shared", &Overlap::shared, "Neurons in both.")
      .def_readonly("jaccard", &Overlap::jaccard, "Shared over either, 0 to 1.")
      .def_readonly(
          "p_value", &Overlap::p_value,
          "Hypergeometric P[at least this many shared] for random circuits of these sizes.")
      .def_readonly("log10_p_value", &Overlap::log10_p_value, "The same where it underflows.")
      .def("__repr__",
           [](const Overlap& o) {
             return fmt::format(
                 "Overlap(shared={}, left={}, right={}, jaccard={:.4f}, p_value={:.3g})", o.shared,
                 o.left, o.right, o.jaccard, o.p_value);
           })
      .def("_repr_html_", [](const Overlap& o) {
        return fmt::format("<b>{} of {} and {} neurons shared</b>: Jaccard {:.3f}, p = {:.3g}",
                           o.shared, o.left, o.right, o.jaccard, o.p_value);
      });

  py::class_<Circuit>(m, "Circuit",
                      "The neurons of one model behind a behaviour, strongest first.\n\n"
                      "Source: arXiv 2605.12290, section 3.")
      .def(py::init([](std::pair<int64_t, int64_t> shape, std::vector<Neuron> neurons,
                       const py::dict& provenance,
                       const std::vector<std::pair<int64_t, int64_t>>& universal_removed,
                       const std::optional<std::vector<int64_t>>& widths,
                       const ExpertPairs& experts) {
             const GridShape grid = shape_from(shape, widths, experts);
             return Circuit(grid, std::move(neurons), provenance_from_dict(provenance),
                            ids_from(universal_removed, grid));
           }),
           py::arg("shape"), py::arg("neurons"), py::arg("provenance") = py::dict(),
           py::arg("universal_removed") = std::vector<std::pair<int64_t, int64_t>>(),
           py::arg("widths") = py::none(), py::arg("experts") = ExpertPairs())
      .def_property_readonly(
          "shape", [](const Circuit& c) { return std::pair(c.shape().layers, c.shape().width); },
          "(n_layers, width) of the model; width is that of the widest layer.")
      .def_property_readonly(
          "widths", [](const Circuit& c) { return widths_of(c.shape()); },
          "Neurons of each layer of the model, [n_layers]; 0 for a block without an MLP.")
      .def_property_readonly(
          "experts", [](const Circuit& c) { return experts_of(c.shape()); },
          "(count, width) of each layer's experts, [n_layers]; empty where no layer has any.")
      .def(
          "expert_of",
          [](const Circuit& c, int64_t layer, int64_t index) {
            if (!c.shape().contains(layer, index))
              throw_index_error(
                  "expert_of: expected a neuron inside {}, got ({}, {}); count from 0",
                  c.shape().text(), layer, index);
            const ExpertPlace at = c.shape().expert_of(layer, index);
            return std::pair(at.expert < 0 ? std::nullopt : std::optional(at.expert), at.index);
          },
          py::arg("layer"), py::arg("index"),
          "(expert, index in it) of a neuron; expert is None for one that every token sees.")
      .def_property_readonly(
          "neurons", [](const Circuit& c) { return c.neurons(); },
          "List of Neuron, by |delta| descending, then layer, then index.")
      .def_property_readonly("layer_counts", &Circuit::layer_counts,
                             "Neurons per layer, [n_layers].")
      .def("share_in_last_layers", &Circuit::share_in_last_layers, py::arg("n"),
           "Share of the neurons in the last n layers, 0 to 1.")
      .def_property_readonly(
          "provenance", [](const Circuit& c) { return provenance_to_dict(c.provenance()); },
          "What the circuit was found with: model, prompts, options (a copy).")
      .def(
          "with_provenance",
          [](const Circuit& c, const py::kwargs& more) {
            Circuit out = c;
            for (auto& [name, value] : provenance_from_dict(more)) out.provenance()[name] = value;
            return out;
          },
          "A copy with these provenance entries added.")
      .def_property_readonly(
          "universal_removed", [](const Circuit& c) { return pairs_from(c.universal_removed()); },
          "(layer, index) of the universal neurons kept out of the circuit.")
      .def("__len__", &Circuit::size)
      .def("__iter__", [](const Circuit& c) { return py::iter(py::cast(c.neurons())); })
      .def(
          "__getitem__",
          [](const Circuit& c, int64_t i) {
            const int64_t at = i < 0 ? i + c.size() : i;
            if (at < 0 || at >= c.size())
              throw_index_error("Circuit: expected a rank below {}, got {}; count from 0", c.size(),
                                i);
            return c.neurons()[static_cast<size_t>(at)];
          },
          py::arg("rank"))
      .def(
          "__getitem__",
          [](const Circuit& c, const py::slice& ranks) {
            size_t start = 0, stop = 0, step = 0, length = 0;
            if (!ranks.compute(static_cast<size_t>(c.size()), &start, &stop, &step, &length))
              throw py::error_already_set();
            std::vector<bool> wanted(static_cast<size_t>(c.size()));
            for (size_t i = 0; i < length; ++i) wanted[start + i * step] = true;
            return c.select(
                py::cast<std::string>(py::repr(ranks)),
                [&](const Neuron&, int64_t rank) { return wanted[static_cast<size_t>(rank)]; });
          },
          py::arg("ranks"), "The neurons of these ranks, as a circuit.")
      .def(
          "in_layers",
          [](const Circuit& c, const py::object& layers) {
            const bool one = py::isinstance<py::int_>(layers);
            std::set<int64_t> wanted;
            for (const py::handle layer : one ? py::make_tuple(layers) : py::tuple(layers)) {
              const auto number = py::cast<int64_t>(layer);
              const int64_t at = number < 0 ? number + c.shape().layers : number;
              if (at < 0 || at >= c.shape().layers)
                throw_index_error("in_layers: expected layers below {}, got {}; count from 0",
                                  c.shape().layers, number);
              wanted.insert(at);
            }
            return c.select(fmt::format("in_layers({})", fmt::join(wanted, ", ")),
                            [&](const Neuron& n, int64_t) { return wanted.contains(n.layer); });
          },
          py::arg("layers"),
          "The neurons of a layer, or of several; negative numbers count from the last layer.")
      .def(
          "where",
          [](const Circuit& c, const py::function& keep) {
            return c.select("where", [&](const Neuron& n, int64_t) {
              return static_cast<bool>(py::bool_(keep(n)));
            });
          },
          py::arg("keep"), "The neurons for which keep(neuron) is true.")
      .def_property_readonly(
          "positive",
          [](const Circuit& c) {
            return c.select("positive", [](const Neuron& n, int64_t) { return n.delta > 0; });
          },
          "The neurons with a positive delta.")
      .def_property_readonly(
          "negative",
          [](const Circuit& c) {
            return c.select("negative", [](const Neuron& n, int64_t) { return n.delta < 0; });
          },
          "The neurons with a negative delta.")
      .def("__contains__",
           [](const Circuit& c, std::pair<int64_t, int64_t> id) {
             return c.contains(id.first, id.second);
           })
      .def(
          "__or__", [](const Circuit& a, const Circuit& b) { return a | b; }, py::is_operator())
      .def(
          "__and__", [](const Circuit& a, const Circuit& b) { return a & b; }, py::is_operator())
      .def(
          "__sub__", [](const Circuit& a, const Circuit& b) { return a - b; }, py::is_operator())
      .def(
          "__eq__", [](const Circuit& a, const Circuit& b) { return a == b; }, py::is_operator())
      .def(
          "to_json", [](const Circuit& c) { return to_json(c); }, "The circuit as JSON text.")
      .def_static(
          "from_json", [](const std::string& text) { return circuit_from_json(text); },
          py::arg("text"), "Reads what to_json wrote; deltas come back bit for bit.")
      .def(
          "save",
          [](const Circuit& c, const std::filesystem::path& path) { save_circuit(c, path); },
          py::arg("path"),
          "Writes JSON: the whole file, or the old one stays. RuntimeError if it cannot.")
      .def_static(
          "load", [](const std::filesystem::path& path) { return load_circuit(path); },
          py::arg("path"),
          "Reads a saved circuit. RuntimeError if unreadable, ValueError or IndexError if it is "
          "not a circuit.")
      .def("__repr__",
           [](const Circuit& c) {
             return fmt::format("Circuit({} neurons of {}, {:.0f} % in the last 3 layers)",
                                c.size(), c.shape().text(), 100 * c.share_in_last_layers(3));
           })
      .def("_repr_html_",
           [](const py::object& self) {
             return py::module_::import("cna.display").attr("circuit_html")(self);
           })
      .def(py::pickle([](const Circuit& c) { return to_json(c); },
                      [](const std::string& text) { return circuit_from_json(text, "pickle"); }));

  m.def(
      "compare", [](const Circuit& a, const Circuit& b) { return compare(a, b); }, py::arg("a"),
      py::arg("b"), "Overlap of two circuits of one model: count, Jaccard, hypergeometric p.");
}

}  // namespace cna::python
