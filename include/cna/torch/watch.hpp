/// A watch reads a gate's score while answers are written: a few dozen numbers a token.
///
///   Watch watch(gate);
///   const auto answers = generate(model, prompts, generation, options, &watch);
///   watch.scores()[prompt][t]     where token t of the answer was predicted: at the token before
///   it
///
/// So the first score is that of the prompt itself, as `Gate::scores` gives it.
#pragma once

#include <functional>
#include <utility>
#include <vector>

#include "cna/export.hpp"
#include "cna/torch/gate.hpp"

namespace cna {

class CNA_API Watch {
 public:
  /// Called with the prompt, the number of the answer's token and the score, before that token is
  /// known; what it throws ends the run.
  using Listener = std::function<void(int64_t prompt, int64_t token, double score)>;

  explicit Watch(Gate gate, Listener listener = {})
      : gate_(std::move(gate)), listener_(std::move(listener)) {}

  [[nodiscard]] const Gate& gate() const { return gate_; }
  /// Of each prompt of the last run, one score for each token of its answer.
  [[nodiscard]] const std::vector<std::vector<double>>& scores() const { return scores_; }
  /// Of each prompt, whether a score passed the gate's threshold.
  [[nodiscard]] std::vector<bool> fired() const;

  /// What `generate` calls: a run over so many prompts begins.
  void begin(int64_t prompts) { scores_.assign(static_cast<size_t>(prompts), {}); }
  /// What `generate` calls at every step: its prompts and activations [rows, neurons].
  void see(std::span<const int64_t> prompts, const at::Tensor& activations);
  /// What `generate` calls where the token that was predicted ends the answer.
  void forget_last(int64_t prompt) { scores_[static_cast<size_t>(prompt)].pop_back(); }

 private:
  Gate gate_;
  Listener listener_;
  std::vector<std::vector<double>> scores_;
};

}  // namespace cna
