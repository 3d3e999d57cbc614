#include "cna/torch/tap.hpp"

#include <ATen/ATen.h>
#include <torch/library.h>

#include <utility>

#include "cna/error.hpp"

namespace cna {

const char* site_name(Site site) {
  switch (site) {
    case Site::neuron:
      return "neuron";
    case Site::mlp_output:
      return "mlp_output";
    case Site::residual:
      return "residual";
  }
  return "unknown";
}

Taps::Taps(int64_t layers) : layers_(layers) {}

void Taps::record(std::optional<Site> site) {
  recording_ = site;
  recorded_.assign(site ? static_cast<size_t>(layers_) : 0, at::Tensor());
}

std::vector<at::Tensor> Taps::take_recorded() {
  std::vector<at::Tensor> out(recorded_.size());
  out.swap(recorded_);
  return out;
}

at::Tensor Taps::apply(const at::Tensor& x, int64_t slot, const TapShard* shard) {
  try {
    if (poll) poll();
    if (x.dim() != 3) {
      throw_error(
          "tap: expected {} activations [rows, tokens, features] in layer {}, got {} dimensions; "
          "run this architecture with cna.live",
          site_name(static_cast<Site>(slot / layers_)), slot % layers_, x.dim());
    }
  } catch (...) {
    stopped = std::current_exception();
    throw;
  }
  at::Tensor y = x;
  const auto s = static_cast<size_t>(slot);
  if (s < edits_.size()) {
    TapEdit& edit = edits_[s];
    // A model spread over devices: the edit follows the layer, once.
    if (edit.scale.defined() && edit.scale.device() != x.device())
      edit.scale = edit.scale.to(x.device());
    if (edit.shift.defined() && edit.shift.device() != x.device())
      edit.shift = edit.shift.to(x.device());
    const auto mine = [&](const at::Tensor& t) {
      return shard ? t.narrow(-1, shard->first, x.size(-1)) : t;
    };
    // The product is rounded once, as `a *= m` is: low precision meets a float32 scale.
    if (edit.scale.defined()) y = at::mul(y, mine(edit.scale));
    if (edit.shift.defined()) y = at::add(y, mine(edit.shift));
    if (y.scalar_type() != x.scalar_type()) y = y.to(x.scalar_type());
  }
  if (recording_ && slot / layers_ == static_cast<int64_t>(*recording_)) {
    const at::Tensor last = y.select(1, -1).clone();
    recorded_[static_cast<size_t>(slot % layers_)] = shard ? shard->gather(last) : last;
  }
  return y;
}

namespace {

at::Tensor tap(const at::Tensor& x, const c10::intrusive_ptr<Taps>& taps, int64_t slot) {
  return taps->apply(x, slot);
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
  m.class_<Taps>("Taps").def(::torch::init<int64_t>());
  m.def("tap(Tensor(a) x, __torch__.torch.classes.cna.Taps taps, int slot) -> Tensor(a)");
  m.impl("tap", c10::DispatchKey::CompositeExplicitAutograd, TORCH_FN(tap));
  m.def("tap_(Tensor(a!) x, int slot) -> ()");
  m.impl("tap_", c10::DispatchKey::CompositeExplicitAutograd, TORCH_FN(tap_in_place));
}

}  // namespace cna
