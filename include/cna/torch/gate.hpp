/// A gate looks at a prompt before it is answered, and lets it be steered or not.
///
///   score = sum over the circuit of sign(delta_j) (a_j - mean_j) / sd_j     at the last prompt
///   token
///
/// mean and sd are over all discovery prompts; the gate is open where the score passes a threshold
/// that at most a given share of the negative discovery prompts passes. The same score can be read
/// at every token, of a prompt (`token_scores`) or while an answer is written (watch.hpp). Prompts
/// behind a closed
/// gate are answered by the model as it is, bit for bit:
///
///   RunOptions options;
///   options.intervention = gate.guard(Intervention::scale(circuit, m));   // arm 0: untouched
///   options.arm_of_prompt = gate.arms(model, prompts);                    // 0 or 1
#pragma once

#include <span>
#include <vector>

#include "cna/circuit.hpp"
#include "cna/statistics.hpp"
#include "cna/torch/intervention.hpp"
#include "cna/torch/model.hpp"
#include "cna/torch/tokens.hpp"

namespace cna {

class CNA_API Gate {
 public:
  /// Fits scores and threshold on discovery prompts.
  /// @param false_positives  share of the negative prompts that may pass
  /// @throws ValueError for an empty set or circuit, or a share outside [0, 1); else as `record`.
  [[nodiscard]] static Gate fit(Model& model, const Circuit& circuit,
                                std::span<const TokenIds> positive,
                                std::span<const TokenIds> negative, double false_positives = 0.05,
                                const RunOptions& options = {});

  /// A gate with known numbers: mean and sd one per neuron in the circuit's order; a neuron whose
  /// sd is 0 does not count.
  Gate(Circuit circuit, std::vector<double> mean, std::vector<double> sd, Threshold threshold);

  /// Score of each prompt, in standard deviations summed over neurons.
  [[nodiscard]] std::vector<double> scores(Model& model, std::span<const TokenIds> prompts,
                                           const RunOptions& options = {}) const;
  /// Score of activations [..., neurons] in the circuit's order, float64 [...].
  [[nodiscard]] at::Tensor score_of(const at::Tensor& activations) const;
  /// Score at every token of each prompt; the last one's is that of `scores`.
  [[nodiscard]] std::vector<std::vector<double>> token_scores(Model& model,
                                                              std::span<const TokenIds> prompts,
                                                              const RunOptions& options = {}) const;
  /// 1 for prompts that pass, else 0.
  [[nodiscard]] std::vector<int64_t> arms(Model& model, std::span<const TokenIds> prompts,
                                          const RunOptions& options = {}) const;
  /// The arms that `arms` counts: the model as it is, then the steering.
  /// @throws ValueError unless the steering has one arm.
  [[nodiscard]] static Intervention guard(const Intervention& steering);

  [[nodiscard]] const Circuit& circuit() const { return circuit_; }
  [[nodiscard]] const std::vector<double>& mean() const { return mean_; }
  [[nodiscard]] const std::vector<double>& sd() const { return sd_; }
  /// Rates are those on the discovery prompts.
  [[nodiscard]] const Threshold& threshold() const { return threshold_; }

 private:
  /// sign(delta) / sd of each neuron, 0 where sd is.
  [[nodiscard]] std::vector<double> weights() const;

  Circuit circuit_;
  std::vector<double> mean_, sd_;
  Threshold threshold_;
};

}  // namespace cna
