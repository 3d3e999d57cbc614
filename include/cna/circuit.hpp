/// A circuit: the few neurons of one model that carry a behaviour, and where they came from.
///
///   neurons sorted by |delta| descending, ties by layer, then index; each place at most once
///
/// layer_counts()[l] is the number of the circuit's neurons in layer l.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <filesystem>
#include <limits>
#include <numbers>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "cna/error.hpp"
#include "cna/neuron.hpp"
#include "cna/provenance.hpp"
#include "cna/statistics.hpp"

namespace cna {

class Circuit {
 public:
  /// Takes neurons in any order. `universal_removed` are the neurons that the universal filter kept
  /// out. Throws IndexError for a neuron outside `shape`, ValueError for a repeated one, for a
  /// delta that is not finite, or for a shape without neurons.
  Circuit(GridShape shape, std::vector<Neuron> neurons, Provenance provenance = {},
          std::vector<NeuronId> universal_removed = {});

  [[nodiscard]] const GridShape& shape() const { return shape_; }

  /// The neurons, strongest first.
  [[nodiscard]] const std::vector<Neuron>& neurons() const { return neurons_; }

  [[nodiscard]] int64_t size() const { return static_cast<int64_t>(neurons_.size()); }
  [[nodiscard]] bool empty() const { return neurons_.empty(); }

  [[nodiscard]] bool contains(int64_t layer, int64_t index) const {
    return shape_.contains(layer, index) &&
           std::binary_search(places_.begin(), places_.end(), place(layer, index));
  }

  /// The places of the neurons, by layer, then index.
  [[nodiscard]] const std::vector<NeuronId>& places() const { return places_; }

  /// Neurons per layer [layers].
  [[nodiscard]] std::vector<int64_t> layer_counts() const {
    std::vector<int64_t> counts(static_cast<std::size_t>(shape_.layers), 0);
    for (const NeuronId id : places_) counts[static_cast<std::size_t>(id.layer)] += 1;
    return counts;
  }

  /// The share of the neurons that sit in the last `n` layers, between 0 and 1; 0 for an empty
  /// circuit, all layers if the model has fewer than n. Throws ValueError if n is negative.
  [[nodiscard]] double share_in_last_layers(int64_t n) const {
    if (n < 0) {
      throw_value_error("share_in_last_layers: expected 0 layers or more, got {}; pass a count", n);
    }
    const auto late = std::count_if(places_.begin(), places_.end(),
                                    [&](NeuronId id) { return id.layer >= shape_.layers - n; });
    return empty() ? 0.0 : static_cast<double>(late) / static_cast<double>(size());
  }

  [[nodiscard]] const Provenance& provenance() const { return provenance_; }
  [[nodiscard]] Provenance& provenance() { return provenance_; }

  /// The neurons that the universal filter kept out of the circuit, by layer, then index.
  [[nodiscard]] const std::vector<NeuronId>& universal_removed() const {
    return universal_removed_;
  }

  /// Neurons in either circuit. All three operators keep the left operand's delta where both
  /// circuits have the neuron, note the operation as provenance, and throw ValueError if the shapes
  /// differ.
  [[nodiscard]] friend Circuit operator|(const Circuit& a, const Circuit& b) {
    std::vector<Neuron> all = a.neurons_;
    for (const Neuron& neuron : b.neurons_) {
      if (!a.contains(neuron.layer, neuron.index)) all.push_back(neuron);
    }
    return combine("union", a, b, std::move(all));
  }

  /// Neurons in both circuits.
  [[nodiscard]] friend Circuit operator&(const Circuit& a, const Circuit& b) {
    return combine("intersection", a, b, a.filtered(b, true));
  }

  /// Neurons in the left circuit only.
  [[nodiscard]] friend Circuit operator-(const Circuit& a, const Circuit& b) {
    return combine("difference", a, b, a.filtered(b, false));
  }

  /// The neurons for which `keep(neuron, rank)` holds, rank 0 being the strongest. What the circuit
  /// says of itself stays, and `selection` is added to the list of that name.
  template <class Keep>
  [[nodiscard]] Circuit select(std::string_view selection, Keep&& keep) const {
    std::vector<Neuron> kept;
    for (std::size_t rank = 0; rank < neurons_.size(); ++rank)
      if (keep(neurons_[rank], static_cast<int64_t>(rank))) kept.push_back(neurons_[rank]);
    Provenance provenance = provenance_;
    std::string& list = provenance["selection"];
    const std::string before = list.size() > 2 ? list.substr(0, list.size() - 1) + "," : "[";
    list = before + json_string(selection) + "]";
    return Circuit(shape_, std::move(kept), std::move(provenance), universal_removed_);
  }

  friend bool operator==(const Circuit&, const Circuit&) = default;

 private:
  [[nodiscard]] static NeuronId place(int64_t layer, int64_t index) {
    return {static_cast<int32_t>(layer), static_cast<int32_t>(index)};
  }

  [[nodiscard]] std::vector<Neuron> filtered(const Circuit& other, bool keep_shared) const {
    std::vector<Neuron> result;
    for (const Neuron& neuron : neurons_) {
      if (other.contains(neuron.layer, neuron.index) == keep_shared) result.push_back(neuron);
    }
    return result;
  }

  [[nodiscard]] static Circuit combine(std::string_view operation, const Circuit& a,
                                       const Circuit& b, std::vector<Neuron> neurons);

  GridShape shape_;
  std::vector<Neuron> neurons_;
  std::vector<NeuronId> places_;
  Provenance provenance_;
  std::vector<NeuronId> universal_removed_;
};

/// How two circuits of one model overlap.
struct Overlap {
  int64_t left = 0;            ///< neurons in the left circuit
  int64_t right = 0;           ///< neurons in the right circuit
  int64_t shared = 0;          ///< neurons in both
  double jaccard = 0.0;        ///< shared / either
  double p_value = 1.0;        ///< P[at least this many shared] for random circuits of these sizes
  double log10_p_value = 0.0;  ///< the same where p_value is too small for a double
};

/// Compares the places of two circuits, not their deltas; throws ValueError if the shapes differ.
[[nodiscard]] inline Overlap compare(const Circuit& a, const Circuit& b);

/// The circuit as JSON on one line. Throws ValueError if a provenance value is not JSON.
[[nodiscard]] std::string to_json(const Circuit& circuit);

/// Reads what to_json wrote; deltas come back bit for bit. `origin` names the source in messages.
/// Throws ValueError if the text is not a circuit.
[[nodiscard]] Circuit circuit_from_json(std::string_view text, std::string_view origin = "text");

/// Writes a circuit to a file as JSON: either the whole file is there afterwards or the old one is.
/// Throws Error if the file cannot be written.
void save_circuit(const Circuit& circuit, const std::filesystem::path& path);

/// Reads a circuit from a file. Throws Error if it cannot be read, ValueError if it is no circuit.
[[nodiscard]] Circuit load_circuit(const std::filesystem::path& path);

// ---------------------------------------------------------------------------------------------

namespace detail {

inline void require_same_shape(std::string_view function, const Circuit& a, const Circuit& b) {
  if (a.shape() == b.shape()) return;
  throw_value_error(
      "{}: expected circuits of one model, got {} and {} (layers x width); "
      "find both on the same model",
      function, a.shape().text(), b.shape().text());
}

inline void require_experts(const GridShape& shape) {
  const auto layers = static_cast<int64_t>(shape.experts.size());
  if (layers != 0 && layers != shape.layers) {
    throw_value_error(
        "Circuit: expected experts for each of {} layers, got {}; pass the model's experts",
        shape.layers, layers);
  }
  for (int64_t layer = 0; layer < layers; ++layer) {
    const Experts& here = shape.experts[static_cast<std::size_t>(layer)];
    const int64_t width = shape.width_of(layer);
    if (here.count >= 0 && here.width >= 0 && (here.width == 0 || here.count <= width / here.width))
      continue;
    throw_value_error(
        "Circuit: expected experts within the {} neurons of layer {}, got {} of {}; pass the "
        "model's experts",
        width, layer, here.count, here.width);
  }
}

}  // namespace detail

inline Circuit::Circuit(GridShape shape, std::vector<Neuron> neurons, Provenance provenance,
                        std::vector<NeuronId> universal_removed)
    : shape_(std::move(shape)),
      neurons_(std::move(neurons)),
      provenance_(std::move(provenance)),
      universal_removed_(std::move(universal_removed)) {
  constexpr int64_t most = std::numeric_limits<int32_t>::max();
  if (shape_.layers < 1 || shape_.width < 1 || shape_.layers > most || shape_.width > most) {
    throw_value_error(
        "Circuit: expected between 1 and {} layers and neurons per layer, got {} x "
        "{}; pass the model's layers and width",
        most, shape_.layers, shape_.width);
  }
  const bool negative = std::any_of(shape_.widths.begin(), shape_.widths.end(),
                                    [](int64_t width) { return width < 0; });
  GridShape dense = shape_;
  dense.experts.clear();
  if (negative || (!shape_.widths.empty() && dense != GridShape::of(shape_.widths))) {
    throw_value_error(
        "Circuit: expected a width for each of {} layers, the largest {}, got {} of them, from {} "
        "on; pass "
        "the model's widths",
        shape_.layers, shape_.width, shape_.widths.size(),
        *std::min_element(shape_.widths.begin(), shape_.widths.end()));
  }
  detail::require_experts(shape_);
  const auto require_inside = [&](NeuronId id) {
    if (shape_.contains(id.layer, id.index)) return;
    const bool known = id.layer >= 0 && id.layer < shape_.layers;
    throw_index_error(
        "Circuit: expected layers below {} and neurons below {}, got layer {}, "
        "neuron {}; use a circuit found on this model",
        shape_.layers, known ? shape_.width_of(id.layer) : shape_.width, id.layer, id.index);
  };
  places_.reserve(neurons_.size());
  for (const Neuron& neuron : neurons_) {
    require_inside(neuron.id());
    if (!std::isfinite(neuron.delta)) {
      throw_value_error(
          "Circuit: expected a finite delta, got {} at layer {}, neuron {}; record "
          "the activations again",
          neuron.delta, neuron.layer, neuron.index);
    }
    places_.push_back(neuron.id());
  }
  std::sort(places_.begin(), places_.end());
  const auto repeat = std::adjacent_find(places_.begin(), places_.end());
  if (repeat != places_.end()) {
    throw_value_error("Circuit: expected each neuron once, got layer {}, neuron {} twice; drop one",
                      repeat->layer, repeat->index);
  }
  for (const NeuronId id : universal_removed_) require_inside(id);
  std::sort(universal_removed_.begin(), universal_removed_.end());
  universal_removed_.erase(std::unique(universal_removed_.begin(), universal_removed_.end()),
                           universal_removed_.end());
  std::sort(neurons_.begin(), neurons_.end(), stronger);
}

inline Circuit Circuit::combine(std::string_view operation, const Circuit& a, const Circuit& b,
                                std::vector<Neuron> neurons) {
  detail::require_same_shape(operation, a, b);
  std::vector<NeuronId> removed = a.universal_removed_;
  removed.insert(removed.end(), b.universal_removed_.begin(), b.universal_removed_.end());
  Provenance provenance{{"operation", fmt::format("\"{}\"", operation)},
                        {"left_size", fmt::format("{}", a.size())},
                        {"right_size", fmt::format("{}", b.size())}};
  return Circuit(a.shape_, std::move(neurons), std::move(provenance), std::move(removed));
}

Overlap compare(const Circuit& a, const Circuit& b) {
  detail::require_same_shape("compare", a, b);
  Overlap result{.left = a.size(), .right = b.size()};
  for (const NeuronId id : a.places()) result.shared += b.contains(id.layer, id.index) ? 1 : 0;
  result.jaccard = jaccard(result.left, result.right, result.shared);
  const double log_p =
      log_hypergeometric_upper_tail(a.shape().size(), result.left, result.right, result.shared);
  result.p_value = std::exp(log_p);
  result.log10_p_value = log_p / std::numbers::ln10;
  return result;
}

}  // namespace cna
