#include "cna/torch/control.hpp"

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>

#include <algorithm>

namespace cna {

Circuit random_like(const Circuit& circuit, uint64_t seed, bool avoid) {
  at::Generator generator = at::detail::createCPUGenerator(seed);
  const std::vector<int64_t> counts = circuit.layer_counts();
  std::vector<Neuron> neurons;
  for (size_t layer = 0; layer < counts.size(); ++layer) {
    const int64_t width = circuit.shape().width_of(static_cast<int64_t>(layer));
    const at::Tensor drawn = at::randperm(width, generator, at::kLong);
    std::vector<int64_t> order(drawn.data_ptr<int64_t>(),
                               drawn.data_ptr<int64_t>() + drawn.numel());
    if (avoid) {  // the circuit's own come last, for layers that have too few others
      std::stable_partition(order.begin(), order.end(), [&](int64_t index) {
        return !circuit.contains(static_cast<int64_t>(layer), index);
      });
    }
    for (int64_t i = 0; i < counts[layer]; ++i)
      neurons.push_back(
          {static_cast<int32_t>(layer), static_cast<int32_t>(order[static_cast<size_t>(i)]), 0.0});
  }
  return Circuit(circuit.shape(), std::move(neurons),
                 {{"operation", "\"random_like\""},
                  {"seed", fmt::format("{}", seed)},
                  {"avoid", avoid ? "true" : "false"}});
}

}  // namespace cna
