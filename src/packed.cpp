#include "packed.hpp"

#include <ATen/ATen.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <torch/library.h>

#include <optional>
#include <vector>

namespace cna {
namespace {

/// By its boxed form, which stays the same from release to release; empty where there is none.
std::optional<c10::OperatorHandle> operator_named(const char* name) {
  return c10::Dispatcher::singleton().findSchema({name, ""});
}

at::Tensor call(const c10::OperatorHandle& op, torch::jit::Stack stack) {
  op.callBoxed(&stack);
  return stack.back().toTensor();
}

/// oneDNN makes and keeps a product for each number of rows (3.5 ms and 3 MiB for those of a layer
/// of SmolLM2-135M), and rows that end would ask for all numbers: those of a step in between are
/// rounded up to these.
constexpr int64_t kRowsTogether = 8, kMostRounded = 128;

/// x [rows, in] with as many rows as its product is made for; those behind are 0.
at::Tensor with_whole_rows(const at::Tensor& x, int64_t rows) {
  at::Tensor out = at::empty({rows, x.size(1)}, x.options());
  out.narrow(0, 0, x.size(0)).copy_(x);
  out.narrow(0, x.size(0), rows - x.size(0)).zero_();
  return out;
}

}  // namespace

at::Tensor packed_linear(const at::Tensor& x, const at::Tensor& weight,
                         const std::optional<at::Tensor>& bias) {
  const int64_t in = x.size(-1), rows = in > 0 ? x.numel() / in : 0;
  if (rows > kRowsTogether && rows < kMostRounded && rows % kRowsTogether != 0) {
    const int64_t more = (rows / kRowsTogether + 1) * kRowsTogether;
    const at::Tensor out =
        packed_linear(with_whole_rows(x.reshape({rows, in}), more), weight, bias);
    std::vector<int64_t> sizes = x.sizes().vec();
    sizes.back() = out.size(1);
    return out.narrow(0, 0, rows).view(sizes);
  }
  static const auto op = operator_named("mkldnn::_linear_pointwise");
  static const c10::List<std::optional<at::Scalar>> none;
  if (weight.scalar_type() == x.scalar_type())
    return call(*op, {x, weight, bias, "none", none, ""});
  const at::Tensor rounded = x.to(weight.scalar_type());
  const at::Tensor out = call(*op, {rounded, weight, std::optional<at::Tensor>(), "none", none, ""})
                             .to(x.scalar_type());
  return bias ? out + *bias : out;
}

bool can_pack(const at::Tensor& weight) {
  static const bool available = at::globalContext().hasMKLDNN() &&
                                operator_named("mkldnn::_linear_pointwise") &&
                                operator_named("mkldnn::_reorder_linear_weight");
  return available && weight.defined() && weight.dim() == 2 && weight.device().is_cpu() &&
         weight.scalar_type() == at::kFloat && weight.layout() == at::kStrided;
}

bool can_multiply(Precision precision) {
  if (precision == Precision::float32) return true;
  static const auto op = operator_named("mkldnn::_is_mkldnn_bf16_supported");
  if (!op || !at::globalContext().hasMKLDNN()) return false;
  torch::jit::Stack stack;
  op->callBoxed(&stack);
  return stack.back().toBool();
}

at::Tensor pack(const at::Tensor& weight, Precision precision) {
  static const auto op = operator_named("mkldnn::_reorder_linear_weight");
  const at::NoGradGuard guard;   // else the copy remembers what it was made of
  constexpr int64_t rows = 640;  // of a usual product; the layout is good for few rows too
  const auto dtype = precision == Precision::bf16 ? at::kBFloat16 : weight.scalar_type();
  return call(*op, {weight.to(dtype).contiguous(), rows});
}

at::Tensor unpack(const at::Tensor& weight) {
  return weight.is_mkldnn() ? weight.to_dense(at::kFloat) : weight;
}

TORCH_LIBRARY_FRAGMENT(cna, m) {
  m.def("packed_linear(Tensor x, Tensor weight, Tensor? bias) -> Tensor");
  m.impl("packed_linear", c10::DispatchKey::CompositeExplicitAutograd, TORCH_FN(packed_linear));
}

}  // namespace cna
