#include "cna/torch/tap.hpp"

#include <ATen/ATen.h>

#include <algorithm>
#include <utility>

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

void Taps::follow(const std::map<int64_t, std::vector<int64_t>>& neurons) {
  followed_.clear();
  for (const auto& [layer, index] : neurons)
    if (!index.empty()) followed_[layer] = {at::tensor(index, at::kLong), at::Tensor()};
}

std::map<int64_t, at::Tensor> Taps::take_followed() {
  std::map<int64_t, at::Tensor> out;
  for (auto& [layer, one] : followed_) out[layer] = std::exchange(one.kept, at::Tensor());
  return out;
}

void Taps::keep(Followed& what, const at::Tensor& x, const TapShard* shard) const {
  if (what.index.device() != x.device()) what.index = what.index.to(x.device());
  const int64_t rows = x.size(0), tokens = x.size(1);
  if (!shard) {
    what.kept = x.index_select(2, what.index);
  } else if (shard->gather) {
    const at::Tensor all = shard->gather(x.reshape({rows * tokens, x.size(2)}));
    what.kept = all.view({rows, tokens, -1}).index_select(2, what.index.to(all.device()));
  } else {
    if (!what.kept.defined())
      what.kept = at::zeros({rows, tokens, what.index.numel()}, x.options());
    const at::Tensor local = what.index - shard->first;
    const at::Tensor mine = (local.ge(0) & local.lt(x.size(2))).nonzero().squeeze(1);
    what.kept.index_copy_(2, mine.to(what.kept.device()),
                          x.index_select(2, local.index_select(0, mine)).to(what.kept.device()));
  }
}

void Taps::begin_step(const at::Tensor& ids) {
  rows_ = ids.size(0), tokens_ = ids.size(1);
  std::fill(recorded_.begin(), recorded_.end(), at::Tensor());
  for (auto& [layer, one] : followed_) one.kept = at::Tensor();
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

void Taps::widen(std::map<int64_t, int64_t> copies, int64_t rows) {
  joining_ = std::move(copies), joined_rows_ = rows;
}

void Taps::set_places(at::Tensor from_end) {
  places_ = std::move(from_end);
  chosen_.clear();
}

at::Tensor Taps::edited(const at::Tensor& x, TapEdit& edit, const TapShard* shard) {
  // A model spread over devices: the edit follows the layer, once.
  const auto here = [&](at::Tensor& t) {
    if (t.device() != x.device()) t = t.to(x.device());
    const at::Tensor rows = t.size(0) > x.size(0) ? t.narrow(0, 0, x.size(0)) : t;
    return shard ? rows.narrow(-1, shard->first, x.size(-1)) : rows;
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

namespace {
/// A layer's recording with this part in it.
at::Tensor whole(const at::Tensor& part, const TapShard& shard, at::Tensor so_far) {
  if (shard.gather) return shard.gather(part);
  if (!so_far.defined() || so_far.size(0) != part.size(0))
    so_far = at::zeros({part.size(0), shard.features}, part.options());
  so_far.narrow(1, shard.first, part.size(1)).copy_(part);
  return so_far;
}
}  // namespace

at::Tensor Taps::apply(const at::Tensor& x, int64_t slot, const TapShard* shard) {
  const bool flat = x.dim() == 2 && tokens_ > 0 && x.size(0) == rows_ * tokens_;
  const at::Tensor shaped = flat ? x.reshape({rows_, tokens_, x.size(1)}) : x;
  try {
    if (slot < 0 || slot >= kSites * layers_) {
      throw_index_error("tap: expected a slot below {}, got {}; ask Taps::slot for it",
                        kSites * layers_, slot);
    }
    if (poll) poll();
    if (shaped.dim() != 3) {
      throw_error(
          "tap: expected {} activations [rows, tokens, features] in layer {}, got {} dimensions; "
          "run this architecture as a live model",
          site_name(static_cast<Site>(slot / layers_)), slot % layers_, x.dim());
    }
  } catch (...) {
    stopped = std::current_exception();
    throw;
  }
  at::Tensor y = shaped;
  if (const auto join = joining_.find(slot); join != joining_.end())
    y = at::cat({y, y.narrow(0, 0, joined_rows_).repeat({join->second, 1, 1})});
  const auto s = static_cast<size_t>(slot);
  if (s < edits_.size()) {
    for (TapEdit& edit : edits_[s]) y = edited(y, edit, shard);
  }
  if (shard && shard->idle.defined() && !y.is_same(shaped)) y = y.masked_fill(shard->idle, 0);
  if (recording_[slot / layers_] && s < recorded_.size()) {
    const at::Tensor last = y.select(1, -1).clone();
    recorded_[s] = shard ? whole(last, *shard, recorded_[s]) : last;
  }
  if (!followed_.empty() && slot / layers_ == static_cast<int64_t>(Site::neuron)) {
    const auto one = followed_.find(slot % layers_);
    if (one != followed_.end()) keep(one->second, y, shard);
  }
  if (y.is_same(shaped)) return x;
  return flat ? y.reshape(x.sizes()) : y;
}

}  // namespace cna
