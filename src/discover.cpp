#include "cna/torch/discover.hpp"

#include <ATen/ATen.h>

#include "cna/error.hpp"
#include "cna/version.hpp"

namespace cna {
namespace {

/// Two sets of prompts as one job, so that both share their common prefix.
struct TwoSets {
  std::vector<TokenIds> prompts;     ///< positive, then negative
  std::vector<int> group_of_prompt;  ///< 0 or 1

  TwoSets(const char* function, std::span<const TokenIds> positive,
          std::span<const TokenIds> negative)
      : prompts(positive.begin(), positive.end()), group_of_prompt(positive.size(), 0) {
    if (positive.empty() || negative.empty()) {
      throw_value_error(
          "{}: expected prompts in both sets, got {} positive and {} negative; pass "
          "at least one of each",
          function, positive.size(), negative.size());
    }
    prompts.insert(prompts.end(), negative.begin(), negative.end());
    group_of_prompt.resize(prompts.size(), 1);
  }
};

}  // namespace

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
  return {
      {"cna_version", json_string(version)},
      {"model_id", json_string(model.id)},
      {"weights_hash", json_string(model.weights_hash)},
      {"dtype", json_string(c10::getDtypeNames(model.dtype).first)},
      {"k", fmt::format("{}", k)},
      {"fraction", options.k ? "null" : fmt::format("{}", options.fraction)},
      {"ranking", options.rank_by_effect_size ? "\"effect_size\"" : "\"mean_difference\""},
      {"positive_prompts", fmt::format("{}", positive)},
      {"negative_prompts", fmt::format("{}", negative)},
      {"universal_neurons", fmt::format("{}", options.universal.size())},
  };
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
  Circuit circuit =
      select_circuit(model.info(), device_contrast(model, positive, negative, options), discovery);
  circuit.provenance()["prompt_hash"] = json_string(prompt_hash(positive, negative));
  return circuit;
}

}  // namespace cna
