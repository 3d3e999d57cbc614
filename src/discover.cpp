#include "cna/torch/discover.hpp"

#include <ATen/ATen.h>

#include <algorithm>

#include "cna/error.hpp"
#include "cna/torch/recorder.hpp"
#include "cna/version.hpp"

namespace cna {
namespace {

using DeviceMoments = Moments<at::Tensor>;

/// Moments of a batch [rows, layers, width] in float64; low-precision sums lose neurons.
DeviceMoments batch_moments(const at::Tensor& activations) {
  const at::Tensor a = activations.to(at::kDouble);
  const at::Tensor mean = a.mean(0);
  return DeviceMoments::of(a.size(0), mean, (a - mean).square().sum(0));
}

Grid to_grid(const at::Tensor& tensor) {
  const at::Tensor t = tensor.to(at::kCPU, at::kDouble).contiguous();
  return Eigen::Map<const Grid>(t.data_ptr<double>(), t.size(0), t.size(1));
}

Moments<Grid> to_host(const DeviceMoments& m) {
  return Moments<Grid>::of(m.count(), to_grid(m.mean()), to_grid(m.m2()));
}

/// 64-bit FNV-1a over token ids, set by set: the same prompts give the same hash.
uint64_t hash_tokens(uint64_t hash, std::span<const TokenIds> prompts) {
  const auto mix = [&hash](uint64_t value) {
    for (int byte = 0; byte < 8; ++byte) {
      hash ^= (value >> (8 * byte)) & 0xff;
      hash *= 1099511628211ull;
    }
  };
  for (const TokenIds& prompt : prompts) {
    for (const int64_t id : prompt) mix(static_cast<uint64_t>(id));
    mix(~0ull);
  }
  mix(~1ull);
  return hash;
}

}  // namespace

Contrast contrast(Model& model, std::span<const TokenIds> positive,
                  std::span<const TokenIds> negative, const RunOptions& options) {
  if (positive.empty() || negative.empty())
    throw_value_error(
        "discover: expected prompts in both sets, got {} positive and {} negative; pass "
        "at least one of each",
        positive.size(), negative.size());
  std::vector<TokenIds> all(positive.begin(), positive.end());
  all.insert(all.end(), negative.begin(), negative.end());
  const auto first_negative = static_cast<int64_t>(positive.size());
  DeviceMoments sides[2];
  record(model, all, Site::neuron, options,
         [&](std::span<const int64_t> rows, const at::Tensor& activations) {
           for (const int side : {0, 1}) {
             std::vector<int64_t> mine;
             for (size_t i = 0; i < rows.size(); ++i) {
               if ((rows[i] >= first_negative) == (side == 1))
                 mine.push_back(static_cast<int64_t>(i));
             }
             if (mine.empty()) continue;
             const at::Tensor index = at::tensor(mine, at::kLong).to(activations.device());
             sides[side].merge(batch_moments(activations.index_select(0, index)));
           }
         });
  return {to_host(sides[0]), to_host(sides[1])};
}

UniversalCounter count_universal(Model& model, std::span<const TokenIds> prompts,
                                 double top_fraction, const RunOptions& options) {
  UniversalCounter counter(model.shape(), top_fraction);
  const auto neurons = static_cast<size_t>(model.shape().size());
  record(model, prompts, Site::neuron, options,
         [&](std::span<const int64_t> rows, const at::Tensor& activations) {
           const at::Tensor a = activations.to(at::kCPU).contiguous();
           for (size_t i = 0; i < rows.size(); ++i)
             counter.add(std::span(a.data_ptr<float>() + i * neurons, neurons));
         });
  return counter;
}

Circuit select_circuit(const ModelInfo& model, const Contrast& contrast,
                       const DiscoverOptions& options) {
  const Grid delta = mean_difference(contrast.positive, contrast.negative);
  const int64_t k = options.k ? *options.k : circuit_size(model.shape, options.fraction);
  const NeuronSet excluded(options.universal.begin(), options.universal.end());
  const Grid score =
      options.rank_by_effect_size ? effect_size(contrast.positive, contrast.negative) : delta;
  std::vector<Neuron> neurons = top_k(score, delta, k, &excluded);
  // The neurons that the filter kept out: those that would have been taken without it.
  std::vector<NeuronId> removed;
  if (!excluded.empty()) {
    for (const Neuron& neuron : top_k(score, delta, k)) {
      if (excluded.contains(neuron.id())) removed.push_back(neuron.id());
    }
  }
  Provenance provenance{
      {"cna_version",
       fmt::format("\"{}.{}.{}\"", CNA_VERSION_MAJOR, CNA_VERSION_MINOR, CNA_VERSION_PATCH)},
      {"model_id", json_string(model.id)},
      {"weights_hash", json_string(model.weights_hash)},
      {"dtype", json_string(c10::toString(model.dtype))},
      {"k", fmt::format("{}", k)},
      {"fraction", options.k ? "null" : fmt::format("{}", options.fraction)},
      {"ranking", options.rank_by_effect_size ? "\"effect_size\"" : "\"mean_difference\""},
      {"positive_prompts", fmt::format("{}", contrast.positive.count())},
      {"negative_prompts", fmt::format("{}", contrast.negative.count())},
      {"universal_neurons", fmt::format("{}", excluded.size())},
  };
  return Circuit(model.shape, std::move(neurons), std::move(provenance), std::move(removed));
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
      select_circuit(model.info(), contrast(model, positive, negative, options), discovery);
  const uint64_t hash = hash_tokens(hash_tokens(14695981039346656037ull, positive), negative);
  circuit.provenance()["prompt_hash"] = fmt::format("\"{:016x}\"", hash);
  return circuit;
}

}  // namespace cna
