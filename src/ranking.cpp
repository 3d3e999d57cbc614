#include "cna/torch/ranking.hpp"

#include <ATen/ATen.h>

#include <cmath>
#include <limits>

#include "cna/error.hpp"
#include "cna/torch/contribution.hpp"
#include "two_sets.hpp"
#include "write_scale.hpp"

namespace cna {
namespace {

at::Tensor checked_direction(const at::Tensor& vector, int64_t hidden) {
  if (vector.dim() != 1 || vector.size(0) != hidden)
    throw_value_error(
        "discover: expected a direction of {} features, got {}; pass a vector of this model's "
        "residual stream",
        hidden, vector.numel());
  const at::Tensor v = vector.detach().to(at::kDouble);
  const double length = v.norm().item<double>();
  if (!(length > 0.0) || length > std::numeric_limits<double>::max())
    throw_value_error(
        "discover: expected a finite direction of some length, got one of length {}; pass sets or "
        "a vector that differ",
        length);
  return v / length;
}

}  // namespace

ScoredContrast residual_score(Model& model, std::span<const TokenIds> positive,
                              std::span<const TokenIds> negative, const RunOptions& options) {
  const TwoSets sets("discover", positive, negative);
  const bool normed = has_post_norm(model, "discover");
  GroupedMoments<at::Tensor> moments(sets.group_of_prompt);
  LayerMean norm(model.shape().layers, [](const at::Tensor& x) { return x.norm(2, -1); });
  const at::Tensor scale = record_scaled(model, sets.prompts, options, normed,
                                         at<Site::neuron>(moments), at<Site::residual>(norm));
  c10::InferenceMode guard;
  ScoredContrast out{{moments.together(0), moments.together(1)}, {}};
  const at::Tensor mean = norm.mean();
  const at::Tensor any = at::ones({model.info().hidden}, mean.options());
  const Writes<at::Tensor> writes = writes_along(model, any, scale);
  out.score = mean_difference(out.contrast.positive, out.contrast.negative) * writes.length /
              mean.unsqueeze(1);
  return out;
}

ScoredContrast direction_score(Model& model, std::span<const TokenIds> positive,
                               std::span<const TokenIds> negative, int64_t layer,
                               const at::Tensor& vector, const RunOptions& options) {
  const int64_t layers = model.shape().layers;
  if (layer < 0 || layer >= layers)
    throw_index_error("discover: expected a direction's layer below {}, got {}; count from 0",
                      layers, layer);
  const TwoSets sets("discover", positive, negative);
  at::Tensor v;
  if (vector.defined()) v = checked_direction(vector, model.info().hidden);
  const bool normed = has_post_norm(model, "discover");
  GroupedMoments<at::Tensor> moments(sets.group_of_prompt), stream(sets.group_of_prompt);
  at::Tensor scale;
  if (v.defined()) {
    scale = record_scaled(model, sets.prompts, options, normed, at<Site::neuron>(moments));
  } else {
    scale = record_scaled(model, sets.prompts, options, normed, at<Site::neuron>(moments),
                          at<Site::residual>(stream));
    c10::InferenceMode guard;
    v = checked_direction(mean_difference(stream.together(0), stream.together(1))[layer],
                          model.info().hidden);
  }
  c10::InferenceMode guard;
  ScoredContrast out{{moments.together(0), moments.together(1)}, {}};
  const at::Tensor delta = mean_difference(out.contrast.positive, out.contrast.negative);
  const Writes<at::Tensor> writes = writes_along(model, v.to(delta.device()), scale);
  out.score = delta * writes.along;
  if (layer + 1 < layers) out.score.narrow(0, layer + 1, layers - layer - 1).zero_();
  return out;
}

ScoredContrast score_neurons(Model& model, std::span<const TokenIds> positive,
                             std::span<const TokenIds> negative, const DiscoverOptions& discovery,
                             const RunOptions& options) {
  switch (discovery.ranking) {
    case Ranking::contribution: {
      const ContributionParts parts = contribution_parts(model, positive, negative, options);
      return {parts.contrast, parts.score(discovery.penalty)};
    }
    case Ranking::residual:
      return residual_score(model, positive, negative, options);
    case Ranking::direction:
      return direction_score(model, positive, negative,
                             discovery.layer_of_direction(model.shape().layers),
                             discovery.direction, options);
    case Ranking::mean_difference:
    case Ranking::effect_size:
      break;
  }
  DeviceContrast contrast = device_contrast(model, positive, negative, options);
  at::Tensor score = discovery.ranking == Ranking::effect_size
                         ? effect_size(contrast.positive, contrast.negative)
                         : mean_difference(contrast.positive, contrast.negative);
  return {std::move(contrast), std::move(score)};
}

Circuit select_scored(const ModelInfo& model, const ScoredContrast& scored,
                      const DiscoverOptions& discovery) {
  Circuit circuit = select_circuit(model, scored.contrast, scored.score, discovery);
  if (discovery.ranking == Ranking::direction) {
    const double share = coverage(scored.score, circuit);
    circuit.provenance()["coverage"] = std::isfinite(share) ? fmt::format("{}", share) : "null";
  }
  return circuit;
}

double coverage(const at::Tensor& score, const Circuit& circuit) {
  std::vector<int64_t> places;
  for (const Neuron& n : circuit.neurons())
    places.push_back(circuit.shape().place(n.layer, n.index));
  double held = 0.0;
  for (const double value : ArrayTraits<at::Tensor>::values_at(score, places)) held += value;
  const double all = score.sum().item<double>();
  return all == 0.0 ? std::numeric_limits<double>::quiet_NaN() : held / all;
}

}  // namespace cna
