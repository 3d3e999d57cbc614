#include "cna/torch/gate.hpp"

#include <ATen/ATen.h>

#include <cmath>

#include "cna/error.hpp"
#include "cna/moments.hpp"
#include "cna/torch/recorder.hpp"
#include "cna/torch/tensor_traits.hpp"
#include "cna/torch/token_recorder.hpp"
#include "two_sets.hpp"

namespace cna {
namespace {

/// A weighted sum of some neurons of each prompt: sum_j weight_j (a_j - mean_j), float64 [prompts].
class NeuronSum {
 public:
  NeuronSum(const Circuit& circuit, const std::vector<double>& mean,
            const std::vector<double>& weight, int64_t prompts)
      : layers_(static_cast<size_t>(circuit.shape().layers)) {
    for (size_t i = 0; i < circuit.neurons().size(); ++i) {
      const Neuron& neuron = circuit.neurons()[i];
      Part& part = layers_[static_cast<size_t>(neuron.layer)];
      part.index.push_back(neuron.index);
      part.mean.push_back(mean[i]);
      part.weight.push_back(weight[i]);
    }
    sums_ = at::zeros({prompts}, at::kDouble);
  }
  void add(int64_t layer, std::span<const int64_t> prompts, const at::Tensor& activations) {
    Part& part = layers_[static_cast<size_t>(layer)];
    if (part.index.empty()) return;
    const auto here = [&](const auto& values, at::ScalarType type) {
      return at::tensor(values, at::TensorOptions(type)).to(activations.device());
    };
    const at::Tensor mine = activations.index_select(1, here(part.index, at::kLong));
    const at::Tensor sums = (mine.to(at::kDouble) - here(part.mean, at::kDouble))
                                .matmul(here(part.weight, at::kDouble));
    batch_ = batch_.defined() ? batch_ + sums : sums;
    rows_.assign(prompts.begin(), prompts.end());
  }
  void end_batch() {
    if (batch_.defined()) sums_.index_put_({at::tensor(rows_, at::kLong)}, batch_.to(at::kCPU));
    batch_ = at::Tensor();
  }
  [[nodiscard]] std::vector<double> values() const {
    return {sums_.data_ptr<double>(), sums_.data_ptr<double>() + sums_.numel()};
  }

 private:
  struct Part {
    std::vector<int64_t> index;
    std::vector<double> mean, weight;
  };
  std::vector<Part> layers_;
  std::vector<int64_t> rows_;
  at::Tensor batch_, sums_;
};

}  // namespace

Gate::Gate(Circuit circuit, std::vector<double> mean, std::vector<double> sd, Threshold threshold)
    : circuit_(std::move(circuit)),
      mean_(std::move(mean)),
      sd_(std::move(sd)),
      threshold_(threshold) {
  const auto n = static_cast<size_t>(circuit_.size());
  if (n == 0 || mean_.size() != n || sd_.size() != n)
    throw_value_error(
        "gate: expected a mean and a deviation for each of the circuit's neurons, got {} neurons, "
        "{} means and {} deviations; fit the gate again",
        n, mean_.size(), sd_.size());
}

Gate Gate::fit(Model& model, const Circuit& circuit, std::span<const TokenIds> positive,
               std::span<const TokenIds> negative, double false_positives,
               const RunOptions& options) {
  if (circuit.empty())
    throw_value_error("gate: expected a circuit with neurons, got an empty one; discover one");
  const TwoSets sets("gate", positive, negative);
  GroupedMoments<at::Tensor> moments(std::vector<int>(sets.prompts.size(), 0));
  record(model, sets.prompts, options, at<Site::neuron>(moments));
  const Moments<at::Tensor> all = moments.together(0);
  std::vector<int64_t> places;
  for (const Neuron& n : circuit.neurons())
    places.push_back(circuit.shape().place(n.layer, n.index));
  std::vector<double> sd = ArrayTraits<at::Tensor>::values_at(all.m2(), places);
  for (double& x : sd) x = std::sqrt(x / static_cast<double>(all.count()));
  Gate gate(circuit, ArrayTraits<at::Tensor>::values_at(all.mean(), places), std::move(sd), {});
  const std::vector<double> scores = gate.scores(model, sets.prompts, options);
  const std::span<const double> of_all(scores);
  gate.threshold_ =
      threshold_at(of_all.first(sets.positive), of_all.subspan(sets.positive), false_positives);
  return gate;
}

std::vector<double> Gate::weights() const {
  std::vector<double> out;
  for (size_t i = 0; i < sd_.size(); ++i)
    out.push_back(sd_[i] > 0.0 ? std::copysign(1.0 / sd_[i], circuit_.neurons()[i].delta) : 0.0);
  return out;
}

at::Tensor Gate::score_of(const at::Tensor& activations) const {
  if (activations.dim() < 1 || activations.size(-1) != circuit_.size())
    throw_value_error("gate: expected activations of {} neurons, got {}; pass [..., neurons]",
                      circuit_.size(), activations.dim() < 1 ? 0 : activations.size(-1));
  const at::Tensor a = activations.to(at::kCPU, at::kDouble);
  return (a - at::tensor(mean_, at::kDouble)).matmul(at::tensor(weights(), at::kDouble));
}

std::vector<std::vector<double>> Gate::token_scores(Model& model, std::span<const TokenIds> prompts,
                                                    const RunOptions& options) const {
  std::vector<std::vector<double>> out(prompts.size());
  record_tokens(model, prompts, circuit_, options, [&](int64_t prompt, const at::Tensor& a) {
    const at::Tensor scores = score_of(a);
    out[static_cast<size_t>(prompt)] = {scores.data_ptr<double>(),
                                        scores.data_ptr<double>() + scores.numel()};
  });
  return out;
}

std::vector<double> Gate::scores(Model& model, std::span<const TokenIds> prompts,
                                 const RunOptions& options) const {
  if (model.shape() != circuit_.shape())
    throw_value_error(
        "gate: expected a circuit of {} neurons, got one of {}; it belongs to another model",
        model.shape().text(), circuit_.shape().text());
  const std::vector<double> weight = weights();
  NeuronSum sum(circuit_, mean_, weight, static_cast<int64_t>(prompts.size()));
  record(model, prompts, options, at<Site::neuron>(sum));
  return sum.values();
}

std::vector<int64_t> Gate::arms(Model& model, std::span<const TokenIds> prompts,
                                const RunOptions& options) const {
  std::vector<int64_t> out;
  for (const double score : scores(model, prompts, options))
    out.push_back(score > threshold_.value);
  return out;
}

Intervention Gate::guard(const Intervention& steering) {
  if (steering.arms() != 1)
    throw_value_error(
        "gate: expected steering of one arm, got {}; pick one with Intervention::select",
        steering.arms());
  return Intervention::concat({Intervention(1), steering});
}

}  // namespace cna
