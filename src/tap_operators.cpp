#include <ATen/ATen.h>
#include <torch/library.h>

#include <optional>
#include <utility>

#include "cna/torch/tap.hpp"
#include "taps_handle.hpp"

namespace cna {
namespace {

at::Tensor tap(const at::Tensor& x, const c10::intrusive_ptr<TapsHandle>& handle, int64_t slot) {
  return handle->taps->apply(x, slot);
}

at::Tensor tap_part(const at::Tensor& x, const c10::intrusive_ptr<TapsHandle>& handle, int64_t slot,
                    int64_t first, int64_t features, const std::optional<at::Tensor>& idle) {
  const TapShard shard{first, {}, features, idle.value_or(at::Tensor())};
  return handle->taps->apply(x, slot, &shard);
}

thread_local Taps* active = nullptr;

/// Nothing is active while a graph is exported or checked: x stays as it is. No exception leaves:
/// compiled code would print it. The pass goes on idle, and the host throws what was kept.
void tap_in_place(at::Tensor& x, int64_t slot) {
  if (active == nullptr || active->stopped) return;
  try {
    const at::Tensor y = active->apply(x, slot);
    if (!y.is_same(x)) x.copy_(y);
  } catch (...) {
    active->stopped = std::current_exception();
  }
}

}  // namespace

TapScope::TapScope(Taps& taps) : before_(std::exchange(active, &taps)) {}
TapScope::~TapScope() { active = before_; }

TORCH_LIBRARY(cna, m) {
  m.class_<TapsHandle>("Taps").def(::torch::init<int64_t>());
  m.def("tap(Tensor(a) x, __torch__.torch.classes.cna.Taps taps, int slot) -> Tensor(a)");
  m.impl("tap", c10::DispatchKey::CompositeExplicitAutograd, TORCH_FN(tap));
  m.def(
      "tap_part(Tensor(a) x, __torch__.torch.classes.cna.Taps taps, int slot, int first, "
      "int features, Tensor? idle) -> Tensor(a)");
  m.impl("tap_part", c10::DispatchKey::CompositeExplicitAutograd, TORCH_FN(tap_part));
  m.def("tap_(Tensor(a!) x, int slot) -> ()");
  m.impl("tap_", c10::DispatchKey::CompositeExplicitAutograd, TORCH_FN(tap_in_place));
}

}  // namespace cna
