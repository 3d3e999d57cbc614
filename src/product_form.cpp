#include "product_form.hpp"

#include <ATen/ATen.h>
#include <torch/library.h>

#include <algorithm>
#include <chrono>
#include <optional>

#include "packed.hpp"

namespace cna {
namespace {

/// From 128 rows on plain products are as fast, and the result need not be turned back.
constexpr int64_t kFewRows = 128;

/// x [..., in] times a weight [out, in], plus the bias [out]: a few rows as weight * x^T, in which
/// the weight is read as it lies.
at::Tensor weights_first_linear(const at::Tensor& x, const at::Tensor& weight,
                                const std::optional<at::Tensor>& bias) {
  const int64_t in = x.size(-1), rows = in > 0 ? x.numel() / in : 0;
  if (rows < 2 || rows >= kFewRows) return at::linear(x, weight, bias);
  const at::Tensor turned = at::mm(weight, x.reshape({rows, in}).t());
  std::vector<int64_t> sizes = x.sizes().vec();
  sizes.back() = weight.size(0);
  at::Tensor out = turned.t().contiguous().view(sizes);
  return bias ? out.add_(*bias) : out;
}

/// A form with what it multiplies by.
struct Candidate {
  ProductForm form;
  std::vector<at::Tensor> weights;
  double seconds = 1e9;  // the least of its turns
};

at::Tensor multiply(ProductForm form, const at::Tensor& x, const at::Tensor& weight) {
  if (form == ProductForm::packed) return packed_linear(x, weight, std::nullopt);
  if (form == ProductForm::weights_first) return weights_first_linear(x, weight, std::nullopt);
  return at::linear(x, weight);
}

double seconds_of(const Candidate& candidate, const std::vector<at::Tensor>& inputs) {
  const auto begin = std::chrono::steady_clock::now();
  for (size_t i = 0; i < inputs.size(); ++i)
    multiply(candidate.form, inputs[i], candidate.weights[i]);
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

/// The first weights, the last of them in part, that fill usual caches; none where all of them are
/// small.
std::vector<at::Tensor> sample(const std::vector<at::Tensor>& weights) {
  constexpr size_t least = size_t{8} << 20, enough = size_t{32} << 20;  // bytes
  std::vector<at::Tensor> out;
  size_t bytes = 0;
  for (const at::Tensor& weight : weights) {
    const size_t row = weight.nbytes() / static_cast<size_t>(std::max<int64_t>(1, weight.size(0)));
    const auto rows = static_cast<int64_t>((enough - bytes) / std::max<size_t>(1, row));
    if (rows == 0) break;
    out.push_back(weight.narrow(0, 0, std::min(rows, weight.size(0))));
    bytes += out.back().nbytes();
  }
  return bytes < least ? std::vector<at::Tensor>() : out;
}

}  // namespace

bool has_form(ProductForm form, const at::Tensor& weight) {
  if (form == ProductForm::packed) return can_pack(weight);
  return form == ProductForm::plain ||
         (weight.defined() && weight.device().is_cpu() && weight.scalar_type() == at::kFloat &&
          weight.dim() == 2 && weight.layout() == at::kStrided);
}

ProductForm fastest_form(const std::vector<at::Tensor>& weights) {
  constexpr int64_t rows = 32;
  constexpr int turns = 4;  // the first warms up
  constexpr double clearly = 0.75;
  const c10::InferenceMode guard;
  const std::vector<at::Tensor> some = sample(weights);
  std::vector<Candidate> candidates;
  for (const ProductForm form :
       {ProductForm::packed, ProductForm::weights_first, ProductForm::plain}) {
    if (weights.empty() || !has_form(form, weights[0])) continue;
    if (some.empty()) return form;
    candidates.push_back({form, some});
    if (form == ProductForm::packed)
      for (at::Tensor& weight : candidates.back().weights)
        weight = pack(weight, Precision::float32);
  }
  if (candidates.empty()) return ProductForm::plain;
  std::vector<at::Tensor> inputs;
  for (const at::Tensor& weight : some)
    inputs.push_back(at::full({rows, weight.size(1)}, 0.5, weight.options()));
  for (int turn = 0; turn < turns; ++turn)
    for (Candidate& candidate : candidates)
      candidate.seconds = std::min(candidate.seconds, seconds_of(candidate, inputs));
  const Candidate* best = &candidates[0];
  for (const Candidate& other : candidates)
    if (other.seconds < clearly * best->seconds) best = &other;
  return best->form;
}

TORCH_LIBRARY_FRAGMENT(cna, m) {
  m.def("weights_first_linear(Tensor x, Tensor weight, Tensor? bias) -> Tensor");
  m.impl("weights_first_linear", c10::DispatchKey::CompositeExplicitAutograd,
         TORCH_FN(weights_first_linear));
}

}  // namespace cna
