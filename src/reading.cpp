#include "cna/torch/reading.hpp"

#include <ATen/ATen.h>

#include <map>

#include "cna/error.hpp"
#include "cna/torch/readout.hpp"

namespace cna {

at::Tensor logits_written(Model& model, const Circuit& circuit) {
  if (circuit.shape() != model.shape())
    throw_value_error(
        "reading: expected a circuit of {} neurons, got one of {}; it belongs to another model",
        model.shape().text(), circuit.shape().text());
  const Model::Turn turn = model.take_turn("reading");
  at::Tensor logits;
  {
    c10::InferenceMode guard;
    const Readout readout = model.host().readout();
    const at::Tensor gain = readout.gain.to(at::kCPU, at::kFloat);
    std::map<int64_t, Write> writes;
    std::vector<at::Tensor> columns;  // [hidden] of each neuron
    for (const Neuron& neuron : circuit.neurons()) {
      const auto [place, absent] = writes.try_emplace(neuron.layer);
      if (absent) place->second = model.host().write(neuron.layer);
      at::Tensor w = place->second.weight.select(1, neuron.index).to(at::kCPU, at::kFloat);
      if (place->second.gain.defined()) w = w * place->second.gain.to(at::kCPU, at::kFloat);
      if (readout.centred) w = w - w.mean();
      columns.push_back(w * gain);
    }
    const at::Tensor head = readout.unembedding.to(at::kCPU, at::kFloat);
    logits = columns.empty() ? at::empty({0, head.size(0)}, at::kFloat)
                             : at::stack(columns).matmul(head.t());
  }
  return logits.clone();  // the caller's own tensor, not one of inference
}

}  // namespace cna
