#include "run.hpp"

#include <ATen/ATen.h>

#include <algorithm>
#include <numeric>

#include "batch_limits.hpp"
#include "cna/error.hpp"
#include "cna/torch/tap.hpp"
#include "give_back.hpp"
#include "step_error.hpp"

namespace cna {
namespace {

constexpr int64_t kAllArms = -1;

}  // namespace

Run::Run(const char* function, Model& model, std::span<const TokenIds> prompts,
         const RunOptions& options, int64_t room, std::span<const int64_t> ends)
    : function_(function),
      model_(model),
      turn_(model.take_turn(function)),
      prompts_(prompts),
      options_(options),
      room_(room),
      ends_(ends),
      last_(options.intervention.last()) {
  const ModelInfo& about = info();
  require_prompts(function, prompts, about.vocab, about.max_positions, room);
  if (options.batch_rows < 1 || options.batch_tokens < 0)
    throw_value_error(
        "{}: expected batches of at least one prompt, got {} rows and {} tokens; pass "
        "a batch size of 1 or more",
        function, options.batch_rows, options.batch_tokens);
  options.intervention.require_fits(about.shape, about.hidden, about.residual_sites, about.vocab);
  if (!options.arm_of_prompt.empty() && options.arm_of_prompt.size() != prompts.size())
    throw_value_error(
        "{}: expected one strength per prompt ({}), got {}; pass one for each prompt, "
        "or a single one",
        function, prompts.size(), options.arm_of_prompt.size());
  for (const int64_t arm : options.arm_of_prompt) {
    if (arm < 0 || arm >= options.intervention.arms())
      throw_index_error("{}: expected arms below {}, got {}; name an arm of the intervention",
                        function, options.intervention.arms(), arm);
  }
  if (room > 0 && about.device.is_cpu()) give_back_freed();  // keys and values need much
  if (host().captures()) replays_.emplace(function, host(), capture_on(about.device.type()));
  host().taps().poll = options.poll;
  try {
    compute_prefix();
  } catch (...) {
    host().taps().set_edits({});
    host().taps().set_places({});
    host().taps().poll = nullptr;
    throw;
  }
}

Run::~Run() {
  host().taps().set_edits({});
  host().taps().widen({}, 0);
  host().taps().set_places({});
  host().taps().record({});
  host().taps().follow({});
  host().taps().poll = nullptr;
  prefix_cache_.clear();
  if (room_ > 0 && info().device.is_cpu()) give_back_freed();
}

std::vector<int64_t> Run::arms(std::span<const int64_t> rows) const {
  std::vector<int64_t> out(rows.size(), 0);
  if (options_.arm_of_prompt.empty()) return out;
  for (size_t i = 0; i < rows.size(); ++i)
    out[i] = options_.arm_of_prompt[static_cast<size_t>(rows[i])];
  return out;
}

Run::Steering Run::Steering::select(const at::Tensor& rows) const {
  Steering out{{}, bias.defined() && bias.size(0) > 1 ? bias.index_select(0, rows) : bias};
  for (const TapEdit& edit : edits) out.edits.push_back(edit.select(rows));
  return out;
}

const Run::Steering& Run::bound(int64_t arm) {
  const auto [place, absent] = bound_.try_emplace(arm);
  if (absent) {
    std::vector<int64_t> arms{arm};
    if (arm == kAllArms) {
      arms.resize(static_cast<size_t>(options_.intervention.arms()));
      std::iota(arms.begin(), arms.end(), int64_t{0});
    }
    const Intervention& all = options_.intervention;
    place->second = {all.bind(arms, info().shape.layers, info().dtype, info().device),
                     all.logit_bias(arms, info().device)};
  }
  return place->second;
}

void Run::steer(std::span<const int64_t> rows) { steer_arms(arms(rows)); }

void Run::steer_arms(const std::vector<int64_t>& arm) {
  // Rows of one arm share its edits; else each takes its own from all arms, on the device.
  if (std::all_of(arm.begin(), arm.end(), [&](int64_t a) { return a == arm[0]; }))
    steering_ = bound(arm[0]);
  else
    steering_ = bound(kAllArms).select(at::tensor(arm, at::kLong).to(info().device));
  host().taps().set_edits(steering_.edits);
  ++steerings_;
}

void Run::keep_rows(const at::Tensor& rows) {
  steering_ = steering_.select(rows);
  ++steerings_;
  host().taps().set_edits(steering_.edits);
}

at::Tensor Run::biased(at::Tensor logits) const {
  const at::Tensor& bias = steering_.bias;
  return bias.defined() ? logits.to(at::kFloat) + bias.to(logits.device()) : logits;
}

at::Tensor Run::logits(const Step& step) { return biased(host().logits(step)); }

at::Tensor Run::replay(Bucket& bucket, int64_t rows) {
  return biased(replays_->run(bucket, steering_.edits, steerings_).narrow(0, 0, rows));
}

int64_t Run::rows_of_prefill(int64_t rows, int64_t tokens) const {
  const int64_t best = prefill_tokens(info(), options_);
  if (best == 0) return rows;
  const int64_t blocks = std::max<int64_t>(1, (rows * tokens + best / 2) / best);  // of equal size
  return (rows + blocks - 1) / blocks;
}

int64_t Run::end_of(int64_t row) const {
  const auto i = static_cast<size_t>(row);
  return ends_.empty() ? static_cast<int64_t>(prompts_[i].size()) : ends_[i];
}

void Run::place(std::span<const int64_t> rows, const at::Tensor& positions) {
  if (last_ == 0) return;
  at::Tensor ends = at::empty({static_cast<int64_t>(rows.size()), 1}, at::kLong);
  for (size_t i = 0; i < rows.size(); ++i) ends.data_ptr<int64_t>()[i] = end_of(rows[i]);
  host().taps().set_places(ends.to(positions.device()) - positions);
}

std::vector<Batch> Run::batches() const {
  const BatchLimits limits = batch_limits(info(), options_, room_);
  return make_batches(prompts_, prefix_, limits, info().device);
}

std::vector<Batch> Run::blocks() const {
  BatchLimits limits = batch_limits(info(), options_, 0);
  limits.rows = std::max<int64_t>(1, limits.rows / 4), limits.room = room_;
  return make_batches(prompts_, prefix_, limits, info().device);
}

bool Run::fit(std::span<const int64_t> rows, const Batch& block) const {
  const BatchLimits limits = batch_limits(info(), options_, room_);
  const int64_t places = std::max(block.mask.size(1), longest(rows)) + room_;
  const auto all = static_cast<int64_t>(rows.size() + block.rows.size());
  return all <= limits.rows && (limits.places == 0 || all * places <= limits.places);
}

int64_t Run::common_part() const {
  int64_t out = common_prefix(prompts_);
  // Tokens that are steered apart are not shared: they stand at another place in each prompt.
  for (size_t i = 0; last_ > 0 && i < prompts_.size(); ++i)
    out = std::clamp<int64_t>(end_of(static_cast<int64_t>(i)) - last_, 0, out);
  return out;
}

void Run::compute_prefix() {
  const int64_t arms = options_.arm_of_prompt.empty() ? 1 : options_.intervention.arms();
  if (!options_.share_prefix || !info().has_cache() || !info().layouts.share_prefix) return;
  if (static_cast<int64_t>(prompts_.size()) <= arms || (arms > 1 && !info().layouts.batch)) return;
  prefix_ = common_part();
  if (prefix_ == 0) return;
  c10::InferenceMode guard;
  const auto longs = at::TensorOptions(at::kLong).device(info().device);
  const TokenIds& first = prompts_[0];
  Step step;
  step.ids =
      at::tensor(at::ArrayRef<int64_t>(first.data(), static_cast<size_t>(prefix_)), at::kLong)
          .to(info().device)
          .unsqueeze(0)
          .repeat({arms, 1});
  step.mask = at::ones({arms, prefix_}, longs);
  step.positions = at::arange(prefix_, longs).unsqueeze(0).repeat({arms, 1});
  step.keep = at::full({1}, prefix_ - 1, longs);
  const int64_t prefix = std::exchange(prefix_, 0);  // the buffers below start empty
  std::vector<int64_t> rows(static_cast<size_t>(arms));
  std::iota(rows.begin(), rows.end(), int64_t{0});
  step.cache = cache(rows, prefix);
  if (last_ > 0) host().taps().set_places(at::full({arms, prefix}, last_ + 1, longs));
  host().taps().set_edits(bound(arms == 1 ? 0 : kAllArms).edits);
  host().run_to_last_tap(step);
  prefix_cache_ = step.cache;
  prefix_ = prefix;
}

int64_t Run::longest(std::span<const int64_t> rows) const {
  size_t out = 0;
  for (const int64_t row : rows) out = std::max(out, prompts_[static_cast<size_t>(row)].size());
  return static_cast<int64_t>(out);
}

PrefixPlaces Run::prefix_places(std::span<const int64_t> rows, int64_t total, int64_t begin,
                                int64_t end) const {
  std::vector<int64_t> padding;  // make_batches' way
  for (const int64_t row : rows)
    padding.push_back(total - static_cast<int64_t>(prompts_[static_cast<size_t>(row)].size()));
  return {prefix_cache_[0].size(0) > 1 ? arms(rows) : std::vector<int64_t>{}, std::move(padding),
          begin, end, prefix_};
}

void Run::fill(const std::vector<at::Tensor>& cache, std::span<const int64_t> rows, int64_t total,
               int64_t begin, int64_t end) const {
  if (begin == end) return;
  if (prefix_ == 0) {
    for (const at::Tensor& buffer : cache) buffer.narrow(2, begin, end - begin).zero_();
    return;
  }
  PrefixPlaces places = prefix_places(rows, total, begin, end);
  for (size_t i = 0; i < cache.size(); ++i)
    places.copy(prefix_cache_[i], cache[i].narrow(2, begin, end - begin));
}

std::vector<at::Tensor> Run::cache(std::span<const int64_t> rows, int64_t capacity) const {
  std::vector<at::Tensor> out;
  const auto n = static_cast<int64_t>(rows.size());
  try {
    for (size_t i = 0; i < info().cache.size(); ++i) {
      const CacheShape& layer = info().cache[i];
      const auto options = at::TensorOptions(info().dtype).device(info().cache_device(i));
      for (const int64_t dim : {layer.key_dim, layer.value_dim})
        out.push_back(at::empty({n, layer.heads, capacity, dim}, options));
    }
  } catch (const std::exception& error) {
    throw_allocation_error(n, capacity, error);
  }
  fill(out, rows, longest(rows), 0, prefix_);
  return out;
}

Step Run::first_step(const Batch& batch, const std::vector<at::Tensor>& cache, at::Tensor keep) {
  place(batch.rows, batch.positions);
  const auto rows = static_cast<int64_t>(batch.rows.size());
  return {batch.ids, batch.mask, batch.positions, std::move(keep),
          view_cache(cache, rows, batch.mask.size(1))};
}

void Run::report(int64_t done, int64_t total) const {
  if (options_.poll) options_.poll();
  if (options_.progress) options_.progress(done, total);
}

std::vector<at::Tensor> view_cache(const std::vector<at::Tensor>& cache, int64_t rows,
                                   int64_t total) {
  std::vector<at::Tensor> out;
  out.reserve(cache.size());
  for (const at::Tensor& buffer : cache)
    out.push_back(buffer.narrow(0, 0, rows).narrow(2, 0, total));
  return out;
}

}  // namespace cna
