#include "cna/torch/watch.hpp"

#include <ATen/ATen.h>

#include <algorithm>

namespace cna {

std::vector<bool> Watch::fired() const {
  std::vector<bool> out;
  const double threshold = gate_.threshold().value;
  for (const std::vector<double>& scores : scores_)
    out.push_back(
        std::any_of(scores.begin(), scores.end(), [&](double score) { return score > threshold; }));
  return out;
}

void Watch::see(std::span<const int64_t> prompts, const at::Tensor& activations) {
  const at::Tensor scores = gate_.score_of(activations);
  for (size_t i = 0; i < prompts.size(); ++i) {
    const double score = scores.data_ptr<double>()[i];
    std::vector<double>& of_prompt = scores_[static_cast<size_t>(prompts[i])];
    of_prompt.push_back(score);
    if (listener_) listener_(prompts[i], static_cast<int64_t>(of_prompt.size()) - 1, score);
  }
}

}  // namespace cna
