#include "decoder.hpp"

#include <algorithm>
#include <iterator>
#include <numeric>

#include "cna/torch/tap.hpp"
#include "give_back.hpp"
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

Decoder::Decoder(Run& run, const Batch& batch, const GenerateOptions& options, bool watched)
    : run_(run),
      options_(options),
      rows_(batch.rows),
      answered_(batch.rows.size(), 0),
      sampler_(options, batch.rows),
      watched_(watched) {
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

at::Tensor Decoder::prefill() {
  const auto rows = static_cast<int64_t>(rows_.size());
  const int64_t longest = run_.longest(rows_);
  std::vector<at::Tensor> out;
  for (int64_t first = 0, n = rows; first < rows; first += n) {
    const auto from = std::span(rows_).subspan(static_cast<size_t>(first));
    // The longest prompts come first: what pads all of a block is left out.
    const int64_t skip = longest - run_.longest(from);
    const int64_t fresh = ids_.size(1) - skip;
    n = watched_ ? rows : run_.rows_of_prefill(rows - first, fresh);
    const auto mine = from.first(static_cast<size_t>(n));
    const auto of_block = [&](const at::Tensor& all) { return all.narrow(0, first, n); };
    const auto fresh_of = [&](const at::Tensor& all) {
      return of_block(all).narrow(1, skip, fresh);
    };
    Step step{fresh_of(ids_),
              of_block(mask_).narrow(1, 0, total_),
              fresh_of(positions_),
              at::full({1}, fresh - 1, ids_.options()),
              {}};
    for (const at::Tensor& buffer : cache_)
      step.cache.push_back(of_block(buffer).narrow(2, 0, total_));
    const int64_t begin = total_ - ids_.size(1);
    run_.fill(step.cache, mine, longest, begin, begin + skip);
    if (n < rows) run_.steer(mine);
    run_.place(mine, step.positions);
    out.push_back(run_.logits(step).select(1, 0));
  }
  if (out.size() == 1) return out[0];
  run_.steer(rows_);
  return at::cat(out);
}

void Decoder::move_into_bucket() {
  const auto rows = static_cast<int64_t>(rows_.size());
  auto fit = run_.bucket(rows, mask_.size(1));
  if (fit == bucket_) return;
  for (size_t i = 0; i < cache_.size(); ++i) {
    const at::Tensor& to = fit->step.cache[i];
    to.zero_();
    to.narrow(0, 0, rows)
        .narrow(2, 0, total_ - 1)
        .copy_(cache_[i].narrow(0, 0, rows).narrow(2, 0, total_ - 1));
  }
  fit->step.mask.fill_(1);
  fit->step.mask.narrow(0, 0, rows)
      .narrow(1, 0, total_)
      .copy_(mask_.narrow(0, 0, rows).narrow(1, 0, total_));
  cache_ = fit->step.cache, mask_ = fit->step.mask;
  bucket_ = std::move(fit);
}

at::Tensor Decoder::decode() {
  const auto rows = static_cast<int64_t>(rows_.size());
  run_.host().taps().set_places({});  // new tokens stand behind every prompt
  if (run_.replays() && !watched_) {
    move_into_bucket();
    bucket_->feed(ids_, positions_, total_ - 1);
    return run_.replay(*bucket_, rows).select(1, 0);
  }
  const Step step{ids_, mask_.narrow(0, 0, rows).narrow(1, 0, total_), positions_,
                  at::full({1}, ids_.size(1) - 1, ids_.options()),
                  view_cache(cache_, rows, total_)};
  return run_.logits(step).select(1, 0);
}

void Decoder::launch() {
  const bool whole = !run_.info().has_cache();  // every step reads the prompts again
  const at::Tensor logits = prefilled_ && !whole ? decode() : prefill();
  // The activations of prompts, before keys and values of answers take as much again.
  if (!prefilled_ && run_.info().device.is_cpu()) give_back_freed();
  prefilled_ = true;
  chosen_ = sampler_.next(logits).to(ids_.device());
  unread_.emplace_back(chosen_);
}

std::vector<int64_t> Decoder::step(bool ahead) {
  if (unread_.empty()) launch();
  // Where all answers end with this token, nothing comes behind it.
  const int64_t fewest = *std::min_element(answered_.begin(), answered_.end());
  if (ahead && !watched_ && unread_.size() == 1 && run_.info().has_cache() &&
      LateRead::may_wait_for(ids_.device()) && fewest + 1 < options_.max_new_tokens) {
    feed_chosen();
    launch();
  }
  const std::vector<int64_t> tokens = unread_.front().take();  // the only wait of a step
  unread_.pop_front();
  for (size_t i = 0; i < tokens.size(); ++i)
    if (tokens[i] < 0)
      throw_meaningless(run_.function(), options_.first_prompt + rows_[i], answered_[i]);
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
  if (rows_.empty()) {
    unread_.clear();
    return;
  }
  for (int64_t& number : answered_) ++number;
  if (rows_.size() != before) {
    const at::Tensor from = at::tensor(source, at::kLong).to(ids_.device());
    chosen_ = chosen_.index_select(0, from), positions_ = positions_.index_select(0, from);
    if (!run_.info().has_cache()) ids_ = ids_.index_select(0, from);
    run_.keep_rows(from);
    if (!unread_.empty()) unread_.front().keep(source);
  }
  if (unread_.empty()) feed_chosen();
}

void Decoder::feed_chosen() {
  if (run_.info().has_cache()) {
    // A token that means nothing ends the run when it is read, which may be after the next step.
    ids_ = chosen_.clamp_min(0).unsqueeze(1);
    positions_ = positions_.select(1, -1).add(1).unsqueeze(1);
  } else {  // without a cache the whole row runs again
    ids_ = at::cat({ids_, chosen_.unsqueeze(1)}, 1);
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
  bucket_.reset();
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
