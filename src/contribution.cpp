#include "cna/torch/contribution.hpp"

#include <ATen/ATen.h>

#include "cna/error.hpp"
#include "two_sets.hpp"
#include "write_scale.hpp"

namespace cna {
namespace {

/// Feeds the magnitudes of the activations on.
class Magnitudes {
 public:
  explicit Magnitudes(std::vector<int> groups) : moments(std::move(groups)) {}
  void add(int64_t layer, std::span<const int64_t> prompts, const at::Tensor& activations) {
    moments.add(layer, prompts, activations.abs());
  }
  void end_batch() {}

  GroupedMoments<at::Tensor> moments;
};

/// Mean probability of each next token, by set.
class NextToken {
 public:
  explicit NextToken(const TwoSets& sets) : sets_(sets) {}
  void add(std::span<const int64_t> prompts, const at::Tensor& logits) {
    const at::Tensor p = logits.to(at::kDouble).softmax(-1);
    std::vector<double> positive, negative;
    for (const int64_t prompt : prompts) {
      const bool first = sets_.group_of_prompt[static_cast<size_t>(prompt)] == 0;
      positive.push_back(first ? 1.0 / static_cast<double>(sets_.positive) : 0.0);
      negative.push_back(first ? 0.0 : 1.0 / static_cast<double>(sets_.negative));
    }
    const at::Tensor share = at::tensor(positive, at::kDouble) - at::tensor(negative, at::kDouble);
    const at::Tensor mine = share.to(p.device()).matmul(p);
    difference = difference.defined() ? difference + mine : mine;
  }

  at::Tensor difference;  // p+ - p-, [vocab]

 private:
  const TwoSets& sets_;
};

at::Tensor direction_of(const Readout& readout, const at::Tensor& difference) {
  // In blocks of the vocabulary: a float64 copy of the whole unembedding would be large.
  constexpr int64_t kBlock = 8192;
  const at::Tensor& w = readout.unembedding;
  const int64_t vocab = std::min(w.size(0), difference.size(0));
  at::Tensor u = at::zeros({w.size(1)}, difference.options());
  for (int64_t from = 0; from < vocab; from += kBlock) {
    const int64_t n = std::min(kBlock, vocab - from);
    u += difference.narrow(0, from, n).matmul(w.narrow(0, from, n).to(u.options()));
  }
  u *= readout.gain.to(u.options());
  if (readout.centred) u -= u.mean();
  const at::Tensor length = u.norm();
  if (!(length.item<double>() > 0.0))
    throw_value_error(
        "contribution: expected two sets whose next tokens differ, got equal probabilities; pass "
        "prompts that the model answers differently");
  return u / length;
}

}  // namespace

Writes<at::Tensor> writes_along(Model& model, const at::Tensor& direction,
                                const at::Tensor& scale) {
  const Model::Turn turn = model.take_turn("contribution");
  c10::InferenceMode guard;
  std::vector<at::Tensor> along, length;
  const GridShape& shape = model.shape();
  const auto widened = [&](const at::Tensor& row) {  // nothing is written by what is no neuron
    return at::constant_pad_nd(row.to(direction.device()), {0, shape.width - row.size(0)});
  };
  for (int64_t layer = 0; layer < shape.layers; ++layer) {
    if (shape.width_of(layer) == 0) {
      along.push_back(at::zeros({shape.width}, direction.options()));
      length.push_back(along.back());
      continue;
    }
    const Write write = model.host().write(layer);
    at::Tensor w = write.weight.to(at::kDouble);
    if (write.gain.defined()) w = w * write.gain.to(at::kDouble).unsqueeze(1);
    const at::Tensor factor = scale.defined() && write.gain.defined() ? scale[layer].to(w.device())
                                                                      : at::ones({}, w.options());
    along.push_back(widened(direction.to(w.options()).matmul(w) * factor));
    length.push_back(widened(w.norm(2, 0) * factor));
  }
  return {at::stack(along), at::stack(length)};
}

ContributionParts contribution_parts(Model& model, std::span<const TokenIds> positive,
                                     std::span<const TokenIds> negative,
                                     const RunOptions& options) {
  const TwoSets sets("contribution", positive, negative);
  std::vector<int> negatives;
  for (const int group : sets.group_of_prompt) negatives.push_back(group == 1 ? 0 : -1);
  Readout readout;
  {
    const Model::Turn turn = model.take_turn("contribution");
    readout = model.host().readout();  // bad hosts are found before the long part
  }
  const bool normed = has_post_norm(model, "contribution");
  GroupedMoments<at::Tensor> moments(sets.group_of_prompt);
  Magnitudes magnitudes(negatives);
  NextToken next(sets);
  const at::Tensor scale =
      record_scaled(model, sets.prompts, options, normed, at<Site::neuron>(moments),
                    at<Site::neuron>(magnitudes), at_logits(next));
  c10::InferenceMode guard;
  ContributionParts out;
  out.contrast = {moments.together(0), moments.together(1)};
  out.magnitude = magnitudes.moments.together(0).mean();
  out.direction = direction_of(readout, next.difference);
  out.writes = writes_along(model, out.direction, scale);
  return out;
}

std::map<int64_t, at::Tensor> difference_written(Model& model, const Circuit& circuit) {
  if (circuit.shape() != model.shape())
    throw_value_error(
        "shift: expected a circuit of {} neurons, got one of {}; it belongs to another model",
        model.shape().text(), circuit.shape().text());
  const Model::Turn turn = model.take_turn("shift");
  c10::InferenceMode guard;
  std::map<int64_t, at::Tensor> delta;  // of a whole layer
  for (const Neuron& neuron : circuit.neurons()) {
    at::Tensor& mine = delta[neuron.layer];
    if (!mine.defined()) mine = at::zeros({circuit.shape().width_of(neuron.layer)}, at::kDouble);
    mine.data_ptr<double>()[neuron.index] = neuron.delta;
  }
  std::map<int64_t, at::Tensor> out;
  for (const auto& [layer, values] : delta) {
    const Write write = model.host().write(layer);
    if (write.gain.defined())
      throw_error(
          "shift: expected a model that adds its MLPs' outputs as they are, got one with a norm "
          "behind them; steer it with cna");
    const at::Tensor w = write.weight.to(at::kDouble);
    out[layer] = w.matmul(values.to(w.device()));
  }
  return out;
}

}  // namespace cna
