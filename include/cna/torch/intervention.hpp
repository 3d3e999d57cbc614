/// An intervention says how activations change while the model runs: a <- scale * a + shift.
///
/// It has one or several arms (strengths, or methods); each row of a batch names its arm, so a
/// whole strength sweep runs in one batch. Edits are kept per site and layer as [arms, features].
///   scale by m: (m, 0)   ablate: (0, 0)   set to v: (0, v)   mean-ablate: (0, mean)
///   towards t by the share c: (1 - c, c * t)   shift against delta: (1, -c * delta)
///   add a vector v with coefficient c, at the residual stream or at the logits: (1, c * v)
/// An edit acts on every token, or from the last n tokens of the prompt on (`from_last`).
/// The paper's alpha for neuron circuits is 1 - m (arXiv 2605.12290, section 3.3).
#pragma once

#include <ATen/core/Tensor.h>

#include <map>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "cna/circuit.hpp"
#include "cna/torch/tap.hpp"

namespace cna {

class CNA_API Intervention {
 public:
  /// Changes nothing, on `arms` arms.
  explicit Intervention(int64_t arms = 1);

  /// a <- m * a at the circuit's neurons; one arm per multiplier.
  [[nodiscard]] static Intervention scale(const Circuit& circuit,
                                          std::span<const double> multipliers);
  /// a <- 0 at the circuit's neurons.
  [[nodiscard]] static Intervention ablate(const Circuit& circuit) {
    return scale(circuit, std::vector{0.0});
  }
  /// a <- value, one per neuron in the circuit's order.
  [[nodiscard]] static Intervention set(const Circuit& circuit, std::span<const double> values);
  /// a <- the neuron's mean [layers, width] over prompts recorded elsewhere.
  [[nodiscard]] static Intervention mean_ablate(const Circuit& circuit, const Grid& means);
  /// a <- a + c * (target - a), target [layers, width] the neuron's mean over prompts of the other
  /// set; one arm per share c, 0 changes nothing and 1 is `mean_ablate`.
  [[nodiscard]] static Intervention towards(const Circuit& circuit, const Grid& target,
                                            std::span<const double> shares);
  /// a <- a - c * delta, by the difference of means that the circuit was found with; one arm per
  /// coefficient. At all neurons of a layer it adds -c times the MLP's part of CAA there.
  [[nodiscard]] static Intervention shift(const Circuit& circuit,
                                          std::span<const double> coefficients);
  /// x <- x + c * vector at a site of one layer; vector is [features], one arm per coefficient.
  [[nodiscard]] static Intervention add(Site site, int64_t layer, const at::Tensor& vector,
                                        std::span<const double> coefficients);

  /// logits <- logits + c * bias at every place; bias is [vocab], one arm per coefficient.
  [[nodiscard]] static Intervention bias_logits(const at::Tensor& bias,
                                                std::span<const double> coefficients);

  /// First this, then `next`; both need the same number of arms, or one arm for all.
  [[nodiscard]] Intervention then(const Intervention& next) const;
  /// The same edits from the last `tokens` tokens of each prompt on, answers included: 1 is what
  /// the first answer token is predicted from. Edits that are so narrowed already stay as they are.
  /// @throws ValueError for less than one token.
  [[nodiscard]] Intervention from_last(int64_t tokens) const;
  /// The arms of several interventions, one after the other.
  [[nodiscard]] static Intervention concat(const std::vector<Intervention>& parts);
  /// The chosen arms, in that order.
  [[nodiscard]] Intervention select(std::span<const int64_t> arms) const;

  [[nodiscard]] int64_t arms() const { return arms_; }
  /// True if every arm leaves every activation bit-identical.
  [[nodiscard]] bool is_identity() const { return edits_.empty(); }
  /// Tokens at the end of a prompt that some edit treats apart from earlier ones; 0: none does.
  [[nodiscard]] int64_t last() const;
  /// Of each arm, the first of `layers` layers that computes something else than without it: an
  /// edit of the residual stream is felt by the layer behind it. `layers` where no tap is edited.
  [[nodiscard]] std::vector<int64_t> first_layers(int64_t layers) const;
  /// 16 hexadecimal digits of SHA-256 over all edits, by which an arm is known again. The order in
  /// which they were put together does not count, their numbers do to the last bit.
  [[nodiscard]] std::string digest() const;
  /// Throws ValueError if the edits do not fit a model of this shape.
  void require_fits(const GridShape& shape, int64_t hidden, bool residual_sites,
                    int64_t vocab = 0) const;

  /// Edits for rows that follow these arms; [rows or 1, 1, features] on `device`.
  /// Low precision models keep float32 edits, so that the product is rounded once.
  [[nodiscard]] std::vector<TapEdit> bind(std::span<const int64_t> arm_of_row, int64_t layers,
                                          at::ScalarType dtype, c10::Device device) const;

  /// What is added to the logits of rows that follow these arms, float32 [rows or 1, 1, vocab] on
  /// `device`; undefined: nothing.
  [[nodiscard]] at::Tensor logit_bias(std::span<const int64_t> arm_of_row,
                                      c10::Device device) const;

 private:
  struct Edit {
    at::Tensor scale, shift;  // float64 [arms, features], undefined: 1 and 0
    int64_t last = 0;         // as in TapEdit
    [[nodiscard]] int64_t features() const { return (scale.defined() ? scale : shift).size(1); }
  };
  using Key = std::pair<int, int64_t>;    // site, layer
  static constexpr int kLogits = kSites;  // site of the logits: behind the model, no tap of a layer

  /// Edits at a circuit's neurons: of each arm, what `scale_of` and `shift_of` say.
  template <class ScaleOf, class ShiftOf>
  [[nodiscard]] static Intervention at_neurons(const char* function, const Circuit& circuit,
                                               std::span<const double> arms, ScaleOf scale_of,
                                               ShiftOf shift_of);
  Edit& at_slot(Site site, int64_t layer, int64_t features, bool scaled, bool shifted);
  void drop_identities();

  int64_t arms_;
  std::map<Key, std::vector<Edit>> edits_;  // of one place, in the order in which they act
};

}  // namespace cna
