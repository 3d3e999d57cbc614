/// A neuron is one entry of the vector that enters `mlp.down_proj` of one layer.
///
///   a[layer, index] = (act(gate(x)) * up(x))[index]          for a gated MLP
#pragma once

#include <cmath>
#include <compare>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <unordered_set>

#include "cna/grid.hpp"

namespace cna {

/// The place of a neuron; ordered by layer, then index, which is the order of a flat grid.
struct NeuronId {
  int32_t layer = 0;
  int32_t index = 0;

  friend constexpr auto operator<=>(const NeuronId&, const NeuronId&) = default;
};

/// A neuron and its signed contrast: mean over positive prompts minus mean over negative ones.
struct Neuron {
  int32_t layer = 0;
  int32_t index = 0;
  double delta = 0.0;

  [[nodiscard]] constexpr NeuronId id() const { return {layer, index}; }

  friend constexpr bool operator==(const Neuron&, const Neuron&) = default;
};

/// True if `a` comes before `b` in a circuit: |delta| descending, then layer, then index.
[[nodiscard]] inline bool stronger(const Neuron& a, const Neuron& b) {
  const double left = std::abs(a.delta);
  const double right = std::abs(b.delta);
  return left != right ? left > right : a.id() < b.id();
}

}  // namespace cna

template <>
struct std::hash<cna::NeuronId> {
  [[nodiscard]] std::size_t operator()(const cna::NeuronId& id) const noexcept {
    const auto layer = static_cast<uint64_t>(static_cast<uint32_t>(id.layer));
    return std::hash<uint64_t>{}((layer << 32) | static_cast<uint32_t>(id.index));
  }
};

namespace cna {

/// A set of places, for instance the neurons to leave out of a circuit.
using NeuronSet = std::unordered_set<NeuronId>;

}  // namespace cna
