#include "decoder.hpp"

#include <algorithm>
#include <iterator>
#include <numeric>

#include "cna/torch/tap.hpp"
#include "step_error.hpp"

namespace cna {
namespace {

/// [rows, ..., places, ...] along `dim`: the last `keep` of two batches' filled places, which end
/// together behind `total` of `capacity` places; what comes before them is 0.
at::Tensor joined(const at::Tensor& a, int64_t a_end, int64_t a_keep, const at::Tensor& b,
                  int64_t b_end, int64_t b_keep, int64_t rows_a, int64_t rows_b, int64_t end,
                  int64_t capacity, int64_t dim) {
  std::vector<int64_t> sizes = a.sizes().vec();
  sizes[0] = rows_a + rows_b, sizes[static_cast<size_t>(dim)] = capacity;
  at::Tensor out = at::empty(sizes, a.options());
  const auto take = [&](const at::Tensor& from, int64_t at_end, int64_t keep, int64_t first,
                        int64_t rows) {
    const at::Tensor to = out.narrow(0, first, rows);
    to.narrow(dim, 0, end - keep).zero_();
    to.narrow(dim, end - keep, keep)
        .copy_(from.narrow(0, 0, rows).narrow(dim, at_end - keep, keep));
  };
  take(a, a_end, a_keep, 0, rows_a);
  take(b, b_end, b_keep, rows_a, rows_b);
  return out;
}

}  // namespace

Decoder::Decoder(Run& run, const Batch& batch, const GenerateOptions& options)
    : run_(run),
      options_(options),
      rows_(batch.rows),
      answered_(batch.rows.size(), 0),
      sampler_(options, batch.rows) {
  total_ = batch.mask.size(1);
  const int64_t capacity = total_ + options.max_new_tokens - 1;
  cache_ = run.cache(rows_, capacity);
  ids_ = batch.ids;
  mask_ = at::ones({batch.mask.size(0), capacity}, batch.mask.options());
  mask_.narrow(1, 0, total_).copy_(batch.mask);
  positions_ = batch.positions;
}

void Decoder::start_from(const std::vector<at::Tensor>& filled, int64_t places) {
  for (size_t i = 0; i < filled.size(); ++i)
    cache_[i].narrow(2, 0, places).copy_(filled[i].narrow(2, 0, places));
}

std::vector<int64_t> Decoder::step() {
  const auto rows = static_cast<int64_t>(rows_.size());
  const at::Tensor keep = at::full({1}, ids_.size(1) - 1, ids_.options());
  const Step step{ids_, mask_.narrow(0, 0, rows).narrow(1, 0, total_), positions_, keep,
                  view_cache(cache_, rows, total_)};
  if (answered_[0] == 0 || !run_.info().has_cache())
    run_.place(rows_, positions_);
  else
    run_.host().taps().set_places({});  // new tokens stand behind every prompt
  chosen_ = sampler_.next(run_.logits(step).select(1, 0)).to(ids_.device());
  const at::Tensor host = chosen_.to(at::kCPU).contiguous();  // the only wait of a step
  const std::vector<int64_t> tokens{host.data_ptr<int64_t>(),
                                    host.data_ptr<int64_t>() + host.numel()};
  for (size_t i = 0; i < tokens.size(); ++i)
    if (tokens[i] < 0) throw_meaningless("generate", rows_[i], answered_[i]);
  return tokens;
}

void Decoder::advance(const std::vector<bool>& ended) {
  const size_t before = rows_.size();
  std::vector<int64_t> source(before);
  std::iota(source.begin(), source.end(), int64_t{0});
  for (size_t i = before; i-- > 0;) {
    if (!ended[i]) continue;
    const size_t end = rows_.size() - 1;
    if (i != end) move_row(i, end);
    rows_[i] = rows_[end], answered_[i] = answered_[end], source[i] = source[end];
    rows_.pop_back(), answered_.pop_back(), source.pop_back();
  }
  sampler_.keep_first(rows_.size());
  if (rows_.empty()) return;
  for (int64_t& number : answered_) ++number;
  at::Tensor next = chosen_, last = positions_.select(1, -1);
  if (rows_.size() != before) {
    const at::Tensor from = at::tensor(source, at::kLong).to(ids_.device());
    next = next.index_select(0, from), last = last.index_select(0, from);
    if (!run_.info().has_cache()) ids_ = ids_.index_select(0, from);
    run_.keep_rows(from);
  }
  if (run_.info().has_cache()) {
    ids_ = next.unsqueeze(1);
    positions_ = last.add(1).unsqueeze(1);
  } else {  // without a cache the whole row runs again
    ids_ = at::cat({ids_, next.unsqueeze(1)}, 1);
    positions_ = at::arange(ids_.size(1), ids_.options()).expand({ids_.size(0), -1});
  }
  ++total_;
}

int64_t Decoder::needed() const {
  int64_t out = 0;
  for (size_t i = 0; i < rows_.size(); ++i) {
    const TokenIds& prompt = run_.prompts()[static_cast<size_t>(rows_[i])];
    out = std::max(out, static_cast<int64_t>(prompt.size()) + answered_[i]);
  }
  return out;
}

void Decoder::join(Decoder&& other) {
  if (other.done()) {
    if (!done()) run_.steer(rows_);
    return;
  }
  if (done()) {
    rows_.swap(other.rows_), answered_.swap(other.answered_), cache_.swap(other.cache_);
    std::swap(ids_, other.ids_), std::swap(mask_, other.mask_);
    std::swap(positions_, other.positions_), std::swap(total_, other.total_);
    sampler_.join(other.sampler_);
    return;
  }
  const auto mine = static_cast<int64_t>(rows_.size());
  const auto theirs = static_cast<int64_t>(other.rows_.size());
  const int64_t keep = needed(), others = other.needed();
  const int64_t total = std::max(keep, others);
  const int64_t fewest =
      std::min(*std::min_element(answered_.begin(), answered_.end()),
               *std::min_element(other.answered_.begin(), other.answered_.end()));
  const int64_t capacity = total + options_.max_new_tokens - 1 - fewest;
  // The token to come has no key and value yet: its place is the last of `total`.
  for (size_t i = 0; i < cache_.size(); ++i) {
    cache_[i] = joined(cache_[i], total_ - 1, keep - 1, other.cache_[i], other.total_ - 1,
                       others - 1, mine, theirs, total - 1, capacity, 2);
    other.cache_[i].reset();
  }
  at::Tensor mask = joined(mask_, total_, keep, other.mask_, other.total_, others, mine, theirs,
                           total, capacity, 1);
  mask.narrow(1, total, capacity - total).fill_(1);
  mask_ = std::move(mask), total_ = total;
  ids_ = at::cat({ids_, other.ids_}), positions_ = at::cat({positions_, other.positions_});
  std::move(other.rows_.begin(), other.rows_.end(), std::back_inserter(rows_));
  std::move(other.answered_.begin(), other.answered_.end(), std::back_inserter(answered_));
  sampler_.join(other.sampler_);
  other.rows_.clear();
  run_.steer(rows_);
}

void Decoder::move_row(size_t to, size_t from) {
  const auto a = static_cast<int64_t>(to), b = static_cast<int64_t>(from);
  for (at::Tensor& buffer : cache_)
    buffer.select(0, a).narrow(1, 0, total_).copy_(buffer.select(0, b).narrow(1, 0, total_));
  mask_.select(0, a).copy_(mask_.select(0, b));
  sampler_.move(to, from);
}

}  // namespace cna
