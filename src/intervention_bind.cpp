#include <ATen/ATen.h>

#include <algorithm>

#include "cna/error.hpp"
#include "cna/torch/intervention.hpp"

namespace cna {

void Intervention::require_fits(const GridShape& shape, int64_t hidden, bool residual_sites,
                                int64_t vocab) const {
  for (const auto& [key, edits] : edits_) {
    const auto site = static_cast<Site>(key.first);
    const int64_t features = edits.front().features();
    if (key.first == kLogits) {
      if (vocab > 0 && features != vocab)
        throw_value_error(
            "steer: expected a logit bias of {} tokens, got {}; it belongs to another model", vocab,
            features);
      continue;
    }
    const bool known = key.second < shape.layers;
    const int64_t neurons = known ? shape.width_of(key.second) : shape.width;
    const int64_t expected = site == Site::neuron ? neurons : hidden;
    if (features != expected || !known)
      throw_value_error(
          "steer: expected {} features per layer and layers below {}, got {} features "
          "at layer {}; the circuit or vector belongs to another model",
          expected, shape.layers, features, key.second);
    if (site == Site::residual && !residual_sites)
      throw_value_error(
          "steer: expected a model whose residual stream was found, got one where it "
          "was not; steer at site 'mlp_output' instead");
  }
}

std::vector<int64_t> Intervention::first_layers(int64_t layers) const {
  std::vector<int64_t> out(static_cast<size_t>(arms_), layers);
  for (const auto& [key, edits] : edits_) {
    if (key.first == kLogits) continue;
    const int64_t felt = key.second + (static_cast<Site>(key.first) == Site::residual ? 1 : 0);
    for (const Edit& edit : edits) {
      const auto acts = [&](const at::Tensor& t, double idle, int64_t arm) {
        return t.defined() && t[arm].ne(idle).any().item<bool>();
      };
      for (int64_t arm = 0; arm < arms_; ++arm)
        if (acts(edit.scale, 1.0, arm) || acts(edit.shift, 0.0, arm))
          out[static_cast<size_t>(arm)] = std::min(out[static_cast<size_t>(arm)], felt);
    }
  }
  return out;
}

std::vector<TapEdit> Intervention::bind(std::span<const int64_t> arm_of_row, int64_t layers,
                                        at::ScalarType dtype, c10::Device device) const {
  std::vector<TapEdit> out;
  if (edits_.empty()) return out;
  std::vector<int64_t> arms(arm_of_row.begin(), arm_of_row.end());
  // One shared row is enough where all rows follow one arm.
  if (std::all_of(arms.begin(), arms.end(), [&](int64_t a) { return a == arms[0]; }))
    arms.resize(1);
  const Intervention chosen = select(arms);
  if (chosen.edits_.empty()) return out;
  const auto wide = dtype == at::kDouble ? at::kDouble : at::kFloat;
  const auto place = [&](const at::Tensor& t) {
    return t.defined() ? t.to(at::TensorOptions(wide).device(device)).unsqueeze(1) : at::Tensor();
  };
  for (const auto& [key, edits] : chosen.edits_) {
    if (key.first == kLogits) continue;
    for (const Edit& edit : edits)
      out.push_back(
          {key.first * layers + key.second, place(edit.scale), place(edit.shift), edit.last});
  }
  return out;
}

at::Tensor Intervention::logit_bias(std::span<const int64_t> arm_of_row, c10::Device device) const {
  const auto found = edits_.find({kLogits, 0});
  if (found == edits_.end() || arm_of_row.empty()) return {};
  std::vector<int64_t> arms(arm_of_row.begin(), arm_of_row.end());
  if (std::all_of(arms.begin(), arms.end(), [&](int64_t a) { return a == arms[0]; }))
    arms.resize(1);
  const at::Tensor index = at::tensor(arms, at::kLong);
  at::Tensor out;
  for (const Edit& edit : found->second) {
    if (!edit.shift.defined()) continue;
    const at::Tensor mine = edit.shift.index_select(0, index);
    out = out.defined() ? out + mine : mine;
  }
  if (!out.defined() || out.eq(0.0).all().item<bool>()) return {};
  return out.to(at::TensorOptions(at::kFloat).device(device)).unsqueeze(1);
}

}  // namespace cna
