/// The neurons of a circuit in a step that follows them. Private to the library.
#pragma once

#include <ATen/ATen.h>

#include <map>
#include <vector>

#include "cna/circuit.hpp"
#include "cna/error.hpp"
#include "cna/torch/model.hpp"
#include "cna/torch/tap.hpp"

namespace cna {

class FollowedCircuit {
 public:
  /// @throws ValueError for an empty circuit, or one of another shape than the model's.
  FollowedCircuit(const char* function, const Circuit& circuit, const GridShape& shape)
      : function_(function), neurons_(circuit.size()) {
    if (circuit.empty())
      throw_value_error("{}: expected a circuit with neurons, got an empty one; discover one",
                        function);
    if (circuit.shape() != shape)
      throw_value_error(
          "{}: expected a circuit of {} neurons, got one of {}; it belongs to another model",
          function, shape.text(), circuit.shape().text());
    for (int64_t i = 0; i < neurons_; ++i) {
      const Neuron& neuron = circuit.neurons()[static_cast<size_t>(i)];
      index_[neuron.layer].push_back(neuron.index);
      places_[neuron.layer].push_back(i);
    }
  }

  void start(Taps& taps) const { taps.follow(index_); }

  /// What the last step saw, [rows, tokens, neurons] in the circuit's order, float32, on the CPU.
  [[nodiscard]] at::Tensor take(Taps& taps) const {
    at::Tensor out;
    for (auto& [layer, kept] : taps.take_followed()) {
      if (!kept.defined())
        throw_error("{}: expected a tap in layer {}, got none; check the pattern", function_,
                    layer);
      if (!out.defined()) out = at::empty({kept.size(0), kept.size(1), neurons_}, at::kFloat);
      out.index_copy_(2, at::tensor(places_.at(layer), at::kLong), kept.to(at::kCPU, at::kFloat));
    }
    return out;
  }

 private:
  const char* function_;
  int64_t neurons_;
  std::map<int64_t, std::vector<int64_t>> index_, places_;  // by layer: neurons, where they stand
};

}  // namespace cna
