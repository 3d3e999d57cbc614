#include "cna/torch/tap.hpp"

#include <ATen/ATen.h>

#include <algorithm>

#include "cna/error.hpp"

namespace cna {

TapEdit TapEdit::select(const at::Tensor& rows) const {
  const auto of = [&](const at::Tensor& t) {  // one row stands for all
    return t.defined() && t.size(0) > 1 ? t.index_select(0, rows) : t;
  };
  return {slot, of(scale), of(shift), last};
}

void Taps::record(std::span<const Site> sites) {
  std::fill_n(recording_, kSites, false);
  for (const Site site : sites) recording_[static_cast<int>(site)] = true;
  recorded_.assign(sites.empty() ? 0 : static_cast<size_t>(kSites * layers_), at::Tensor());
}

std::vector<at::Tensor> Taps::take_recorded() {
  std::vector<at::Tensor> out(recorded_.size());
  out.swap(recorded_);
  return out;
}

void Taps::set_edits(std::vector<TapEdit> edits) {
  edits_.assign(edits.empty() ? 0 : static_cast<size_t>(kSites * layers_), {});
  for (TapEdit& edit : edits) edits_.at(static_cast<size_t>(edit.slot)).push_back(std::move(edit));
}

bool Taps::watches(int64_t slot) const {
  const auto s = static_cast<size_t>(slot);
  return (s < recorded_.size() && recording_[slot / layers_]) ||
         (s < edits_.size() && !edits_[s].empty());
}

void Taps::set_places(at::Tensor from_end) {
  places_ = std::move(from_end);
  chosen_.clear();
}

at::Tensor Taps::edited(const at::Tensor& x, TapEdit& edit, const TapShard* shard) {
  // A model spread over devices: the edit follows the layer, once.
  const auto here = [&](at::Tensor& t) {
    if (t.device() != x.device()) t = t.to(x.device());
    return shard ? t.narrow(-1, shard->first, x.size(-1)) : t;
  };
  at::Tensor y = x;
  // The product is rounded once, as `a *= m` is: low precision meets a float32 scale.
  if (edit.scale.defined()) y = at::mul(y, here(edit.scale));
  if (edit.shift.defined()) y = at::add(y, here(edit.shift));
  if (y.scalar_type() != x.scalar_type()) y = y.to(x.scalar_type());
  if (edit.last == 0 || !places_.defined()) return y;
  at::Tensor& chosen = chosen_[edit.last];
  if (!chosen.defined()) chosen = places_.le(edit.last).unsqueeze(-1);
  if (chosen.device() != x.device()) chosen = chosen.to(x.device());
  return at::where(chosen, y, x);
}

at::Tensor Taps::apply(const at::Tensor& x, int64_t slot, const TapShard* shard) {
  try {
    if (slot < 0 || slot >= kSites * layers_) {
      throw_index_error("tap: expected a slot below {}, got {}; ask Taps::slot for it",
                        kSites * layers_, slot);
    }
    if (poll) poll();
    if (x.dim() != 3) {
      throw_error(
          "tap: expected {} activations [rows, tokens, features] in layer {}, got {} dimensions; "
          "run this architecture as a live model",
          site_name(static_cast<Site>(slot / layers_)), slot % layers_, x.dim());
    }
  } catch (...) {
    stopped = std::current_exception();
    throw;
  }
  at::Tensor y = x;
  const auto s = static_cast<size_t>(slot);
  if (s < edits_.size()) {
    for (TapEdit& edit : edits_[s]) y = edited(y, edit, shard);
  }
  if (recording_[slot / layers_] && s < recorded_.size()) {
    const at::Tensor last = y.select(1, -1).clone();
    recorded_[s] = shard ? shard->gather(last) : last;
  }
  return y;
}

}  // namespace cna
