#include "cna/torch/discover.hpp"

#include <ATen/ATen.h>

#include "cna/error.hpp"
#include "cna/torch/ranking.hpp"
#include "cna/version.hpp"
#include "two_sets.hpp"

namespace cna {

DeviceContrast device_contrast(Model& model, std::span<const TokenIds> positive,
                               std::span<const TokenIds> negative, const RunOptions& options,
                               Site site) {
  const TwoSets sets("discover", positive, negative);
  GroupedMoments<at::Tensor> moments(sets.group_of_prompt);
  switch (site) {
    case Site::neuron:
      record(model, sets.prompts, options, at<Site::neuron>(moments));
      break;
    case Site::mlp_output:
      record(model, sets.prompts, options, at<Site::mlp_output>(moments));
      break;
    case Site::residual:
      record(model, sets.prompts, options, at<Site::residual>(moments));
      break;
  }
  return {moments.together(0), moments.together(1)};
}

Provenance detail::discovery_provenance(const ModelInfo& model, int64_t k, int64_t positive,
                                        int64_t negative, const DiscoverOptions& options) {
  Provenance out{
      {"cna_version", json_string(version)},
      {"model_id", json_string(model.id)},
      {"weights_hash", json_string(model.weights_hash)},
      {"dtype", json_string(c10::getDtypeNames(model.dtype).first)},
      {"k", fmt::format("{}", k)},
      {"fraction", options.k ? "null" : fmt::format("{}", options.fraction)},
      {"ranking", json_string(ranking_name(options.ranking))},
      {"penalty",
       options.ranking == Ranking::contribution ? fmt::format("{}", options.penalty) : "null"},
      {"side", json_string(options.chosen_side() == Side::positive ? "positive" : "both")},
      {"layers", "null"},
      {"positive_prompts", fmt::format("{}", positive)},
      {"negative_prompts", fmt::format("{}", negative)},
      {"universal_neurons", fmt::format("{}", options.universal.size())},
  };
  const int64_t layers = model.shape.layers;
  if (!options.layers.whole(layers))
    out["layers"] = fmt::format("[{}, {}]", options.layers.first,
                                options.layers.last == -1 ? layers - 1 : options.layers.last);
  if (options.ranking == Ranking::direction) {
    out["direction"] = json_string(options.direction.defined() ? "given" : "caa");
    out["direction_layer"] = fmt::format("{}", options.layer_of_direction(layers));
  }
  return out;
}

Circuit discover(Model& model, std::span<const TokenIds> positive,
                 std::span<const TokenIds> negative, const DiscoverOptions& discovery,
                 const RunOptions& options) {
  // Bad options are found before the long part.
  if (!discovery.k)
    (void)circuit_size(model.shape(), discovery.fraction);
  else if (*discovery.k < 1 || *discovery.k > model.shape().size())
    throw_value_error("discover: expected k between 1 and {} neurons, got {}; choose another k",
                      model.shape().size(), *discovery.k);
  Circuit circuit = select_scored(
      model.info(), score_neurons(model, positive, negative, discovery, options), discovery);
  circuit.provenance()["prompt_hash"] = json_string(prompt_hash(positive, negative));
  return circuit;
}

}  // namespace cna
