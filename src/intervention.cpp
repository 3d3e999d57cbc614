#include "cna/torch/intervention.hpp"

#include <ATen/ATen.h>

#include <cmath>
#include <limits>

#include "cna/error.hpp"
#include "cna/sha256.hpp"

namespace cna {
namespace {

const auto kEdit = at::TensorOptions(at::kDouble);

/// Models compute in float32 at most: what overflows there is no strength.
void require_finite(const char* function, double value) {
  if (!(std::abs(value) <= std::numeric_limits<float>::max()))
    throw_value_error(
        "{}: expected a strength that is finite in float32, got {}; pass a number "
        "such as 0",
        function, value);
}

/// Two edits of one place act on the same features.
void require_features(const char* function, int64_t expected, int64_t got) {
  if (got != expected)
    throw_value_error(
        "{}: expected edits of {} features as in the other intervention, got {}; both must be of "
        "one "
        "model",
        function, expected, got);
}

at::Tensor rows(const at::Tensor& tensor, const at::Tensor& index) {
  return tensor.defined() ? tensor.index_select(0, index) : at::Tensor();
}

}  // namespace

Intervention::Intervention(int64_t arms) : arms_(arms) {
  if (arms < 1)
    throw_value_error("Intervention: expected at least one arm, got {}; pass strengths", arms);
}

Intervention::Edit& Intervention::at_slot(Site site, int64_t layer, int64_t features, bool scaled,
                                          bool shifted) {
  std::vector<Edit>& edits = edits_[{static_cast<int>(site), layer}];
  if (edits.empty()) edits.emplace_back();
  Edit& edit = edits.back();
  if (scaled && !edit.scale.defined()) edit.scale = at::ones({arms_, features}, kEdit);
  if (shifted && !edit.shift.defined()) edit.shift = at::zeros({arms_, features}, kEdit);
  return edit;
}

void Intervention::drop_identities() {
  for (auto entry = edits_.begin(); entry != edits_.end();) {
    std::erase_if(entry->second, [](Edit& edit) {
      if (edit.scale.defined() && edit.scale.eq(1.0).all().item<bool>()) edit.scale = at::Tensor();
      if (edit.shift.defined() && edit.shift.eq(0.0).all().item<bool>()) edit.shift = at::Tensor();
      return !edit.scale.defined() && !edit.shift.defined();
    });
    entry = entry->second.empty() ? edits_.erase(entry) : std::next(entry);
  }
}

template <class ScaleOf, class ShiftOf>
Intervention Intervention::at_neurons(const char* function, const Circuit& circuit,
                                      std::span<const double> arms, ScaleOf scale_of,
                                      ShiftOf shift_of) {
  Intervention out(static_cast<int64_t>(arms.size()));
  for (const double strength : arms) require_finite(function, strength);
  for (size_t i = 0; i < circuit.neurons().size(); ++i) {
    const Neuron& neuron = circuit.neurons()[i];
    const int64_t width = circuit.shape().width_of(neuron.layer);
    Edit& edit = out.at_slot(Site::neuron, neuron.layer, width, true, true);
    double* scale = edit.scale.data_ptr<double>() + neuron.index;
    double* shift = edit.shift.data_ptr<double>() + neuron.index;
    for (size_t arm = 0; arm < arms.size(); ++arm, scale += width, shift += width) {
      *scale = scale_of(i, arms[arm]);
      *shift = shift_of(i, arms[arm]);
      require_finite(function, *shift);
    }
  }
  out.drop_identities();
  return out;
}

Intervention Intervention::scale(const Circuit& circuit, std::span<const double> multipliers) {
  return at_neurons(
      "scale", circuit, multipliers, [](size_t, double m) { return m; },
      [](size_t, double) { return 0.0; });
}

Intervention Intervention::set(const Circuit& circuit, std::span<const double> values) {
  if (static_cast<int64_t>(values.size()) != circuit.size())
    throw_value_error(
        "set: expected one value per neuron ({}), got {}; pass them in the circuit's "
        "order",
        circuit.size(), values.size());
  return at_neurons(
      "set", circuit, std::vector{0.0}, [](size_t, double m) { return m; },
      [&](size_t i, double) { return values[i]; });
}

namespace {

/// The circuit's entries of a grid of means.
std::vector<double> means_of(const char* function, const Circuit& circuit, const Grid& means) {
  if (means.rows() != circuit.shape().layers || means.cols() != circuit.shape().width)
    throw_value_error("{}: expected means of {} x {}, got {} x {}; record them on the same model",
                      function, circuit.shape().layers, circuit.shape().width, means.rows(),
                      means.cols());
  std::vector<double> values;
  for (const Neuron& neuron : circuit.neurons())
    values.push_back(means(neuron.layer, neuron.index));
  return values;
}

}  // namespace

Intervention Intervention::mean_ablate(const Circuit& circuit, const Grid& means) {
  return set(circuit, means_of("mean_ablate", circuit, means));
}

Intervention Intervention::towards(const Circuit& circuit, const Grid& target,
                                   std::span<const double> shares) {
  const std::vector<double> values = means_of("towards", circuit, target);
  return at_neurons(
      "towards", circuit, shares, [](size_t, double c) { return 1.0 - c; },
      [&](size_t i, double c) { return c * values[i]; });
}

Intervention Intervention::shift(const Circuit& circuit, std::span<const double> coefficients) {
  return at_neurons(
      "shift", circuit, coefficients, [](size_t, double) { return 1.0; },
      [&](size_t i, double c) { return -c * circuit.neurons()[i].delta; });
}

Intervention Intervention::add(Site site, int64_t layer, const at::Tensor& vector,
                               std::span<const double> coefficients) {
  if (!vector.defined() || vector.dim() != 1)
    throw_value_error("add: expected a vector of one dimension, got {}; pass one layer's direction",
                      vector.defined() ? vector.dim() : 0);
  if (layer < 0)
    throw_index_error("add: expected a layer of 0 or more, got {}; count from 0", layer);
  Intervention out(static_cast<int64_t>(coefficients.size()));
  for (const double c : coefficients) require_finite("add", c);
  const at::Tensor c =
      at::tensor(at::ArrayRef<double>(coefficients.data(), coefficients.size()), kEdit);
  const at::Tensor shift = c.unsqueeze(1) * vector.detach().to(at::kCPU, at::kDouble).unsqueeze(0);
  if (!shift.to(at::kFloat).isfinite().all().item<bool>())
    throw_value_error(
        "add: expected a vector that is finite in float32 with its coefficients, got one that is "
        "not; compute it from finite activations");
  out.at_slot(site, layer, vector.size(0), false, true).shift = shift;
  out.drop_identities();
  return out;
}

Intervention Intervention::bias_logits(const at::Tensor& bias,
                                       std::span<const double> coefficients) {
  return add(static_cast<Site>(kLogits), 0, bias, coefficients);
}

Intervention Intervention::then(const Intervention& next) const {
  const int64_t arms = std::max(arms_, next.arms_);
  if ((arms_ != arms && arms_ != 1) || (next.arms_ != arms && next.arms_ != 1))
    throw_value_error(
        "then: expected the same number of arms, got {} and {}; pass one strength per "
        "prompt in both, or one for all",
        arms_, next.arms_);
  Intervention out(arms);
  for (const Intervention* part : {this, &next}) {
    for (const auto& [key, edits] : part->edits_) {
      std::vector<Edit>& slot = out.edits_[key];
      for (const Edit& edit : edits) {
        require_features("then", slot.empty() ? edit.features() : slot.front().features(),
                         edit.features());
        if (slot.empty() || slot.back().last != edit.last) slot.push_back({{}, {}, edit.last});
        Edit& to = slot.back();
        if (edit.scale.defined()) {
          const at::Tensor scale = edit.scale.expand({arms, edit.features()});
          to.scale = to.scale.defined() ? to.scale * scale : scale.clone();
          if (to.shift.defined()) to.shift = to.shift * scale;
        }
        if (edit.shift.defined()) {
          const at::Tensor shift = edit.shift.expand({arms, edit.features()});
          to.shift = to.shift.defined() ? to.shift + shift : shift.clone();
        }
      }
    }
  }
  out.drop_identities();
  return out;
}

Intervention Intervention::concat(const std::vector<Intervention>& parts) {
  int64_t arms = 0;
  for (const Intervention& part : parts) arms += part.arms_;
  Intervention out(arms);
  int64_t from = 0;
  for (const Intervention& part : parts) {
    for (const auto& [key, edits] : part.edits_) {
      std::vector<Edit>& slot = out.edits_[key];
      size_t next = 0;  // a part's own edits keep their order; other rows do not mind it
      for (const Edit& edit : edits) {
        const int64_t features = edit.features();
        require_features("concat", slot.empty() ? features : slot.front().features(), features);
        while (next < slot.size() && slot[next].last != edit.last) ++next;
        if (next == slot.size()) slot.push_back({{}, {}, edit.last});
        Edit& to = slot[next++];
        if (edit.scale.defined()) {
          if (!to.scale.defined()) to.scale = at::ones({arms, features}, kEdit);
          to.scale.narrow(0, from, part.arms_).copy_(edit.scale);
        }
        if (edit.shift.defined()) {
          if (!to.shift.defined()) to.shift = at::zeros({arms, features}, kEdit);
          to.shift.narrow(0, from, part.arms_).copy_(edit.shift);
        }
      }
    }
    from += part.arms_;
  }
  return out;
}

Intervention Intervention::select(std::span<const int64_t> arms) const {
  for (const int64_t arm : arms) {
    if (arm < 0 || arm >= arms_)
      throw_index_error("select: expected arms below {}, got {}; name an arm that exists", arms_,
                        arm);
  }
  Intervention out(static_cast<int64_t>(arms.size()));
  const at::Tensor index = at::tensor(at::ArrayRef<int64_t>(arms.data(), arms.size()), at::kLong);
  for (const auto& [key, edits] : edits_)
    for (const Edit& edit : edits)
      out.edits_[key].push_back({rows(edit.scale, index), rows(edit.shift, index), edit.last});
  out.drop_identities();
  return out;
}

std::string Intervention::digest() const {
  std::string bytes = fmt::format("{} arms\n", arms_);
  for (const auto& [key, edits] : edits_) {
    for (const Edit& edit : edits) {
      const std::pair<const char*, at::Tensor> parts[] = {{"scale", edit.scale},
                                                          {"shift", edit.shift}};
      for (const auto& [name, tensor] : parts) {
        if (!tensor.defined()) continue;
        const at::Tensor flat = (tensor + 0.0).contiguous();  // -0 is 0
        bytes += fmt::format("{} {} {} {} {}\n", key.first, key.second, name, tensor.size(1),
                             edit.last);  // the place may be a site or the logits
        bytes.append(reinterpret_cast<const char*>(flat.data_ptr<double>()), flat.nbytes());
      }
    }
  }
  return sha256(bytes).substr(0, 16);
}

Intervention Intervention::from_last(int64_t tokens) const {
  if (tokens < 1)
    throw_value_error(
        "from_last: expected at least the prompt's last token, got {}; pass 1 or more", tokens);
  Intervention out = *this;
  for (auto& [key, edits] : out.edits_) {
    if (key.first == kLogits) continue;  // always predicts the answer
    for (Edit& edit : edits)
      if (edit.last == 0) edit.last = tokens;
  }
  return out;
}

int64_t Intervention::last() const {
  int64_t out = 0;
  for (const auto& [key, edits] : edits_)
    for (const Edit& edit : edits) out = std::max(out, edit.last);
  return out;
}

}  // namespace cna
