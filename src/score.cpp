#include "cna/torch/score.hpp"

#include <ATen/ATen.h>

#include <algorithm>
#include <limits>
#include <map>
#include <optional>
#include <set>

#include "cna/error.hpp"
#include "fan.hpp"
#include "finite.hpp"
#include "kl.hpp"
#include "run.hpp"
#include "step_error.hpp"

namespace cna {
namespace {

/// Of one batch: float32 logits, their log probabilities, and what comes between.
constexpr int64_t kLogitBytes = int64_t{256} << 20;
constexpr int64_t kBytesPerLogit = 12;

std::vector<TokenIds> join(const char* function, std::span<const TokenIds> prompts,
                           std::span<const TokenIds> continuations) {
  if (prompts.size() != continuations.size())
    throw_value_error("{}: expected one continuation per prompt ({}), got {}; pass as many",
                      function, prompts.size(), continuations.size());
  std::vector<TokenIds> out;
  for (size_t i = 0; i < prompts.size(); ++i) {
    if (prompts[i].empty() || continuations[i].empty())
      throw_value_error(
          "{}: expected text in every prompt and continuation, got none at {}; drop it", function,
          i);
    out.push_back(prompts[i]);
    out.back().insert(out.back().end(), continuations[i].begin(), continuations[i].end());
  }
  return out;
}

int64_t rows_that_fit(std::span<const TokenIds> continuations, int64_t vocab, int64_t rows) {
  size_t longest = 1;
  for (const TokenIds& c : continuations) longest = std::max(longest, c.size());
  const int64_t bytes =
      static_cast<int64_t>(longest) * std::max<int64_t>(vocab, 1) * kBytesPerLogit;
  return std::clamp<int64_t>(kLogitBytes / bytes, 1, std::max<int64_t>(rows, 1));
}

/// One batch, scored: tensors on the model's device, a row's continuation in its last places, or
/// in its first where rows share openings.
struct Scored {
  const Batch& batch;
  at::Tensor log_p;    ///< float32 [rows, longest, vocab]
  at::Tensor ids;      ///< [rows, longest]
  at::Tensor counted;  ///< [rows, longest], false beside the continuation
};

/// On the memory of the logits where nothing else holds them: tens of megabytes a batch, which the
/// system would hand out page by page.
at::Tensor log_probabilities(at::Tensor logits) {
  const bool alone = logits.use_count() == 1 && logits.storage().use_count() == 1;
  return alone && logits.is_contiguous() ? at::log_softmax_out(logits, logits, -1)
                                         : logits.log_softmax(-1);
}

/// The job as sequences that share their lower layers; none where it is no such job, or the host
/// cannot.
std::optional<SharedRows> fanned(const char* function, Model& model,
                                 std::span<const TokenIds> sequences, std::span<const int64_t> ends,
                                 const RunOptions& options, bool openings) {
  // An accelerator waits for launches more than for products: fewer and larger batches win there.
  if (options.batch_rows < 2 || sequences.empty() || !model.info().device.is_cpu())
    return std::nullopt;
  auto out = shared_rows(sequences, ends, options, model.shape().layers);
  if (!out || (out->arms.size() < 2 && !openings)) return std::nullopt;
  const Model::Turn turn = model.take_turn(function);
  return model.host().widens() ? out : std::nullopt;
}

/// Calls sink(scored) -> float64 [rows, numbers] for each batch, and sets out[row] to a row's
/// numbers; one read from the device a batch.
/// @param ends     tokens of each sequence that are its prompt
/// @param openings whether continuations of one prompt may share it; a continuation then begins in
///                 the first of its places, and others lie behind a shorter one
/// @param name_of  the prompt of a sequence, for messages
template <class Sink, class Name>
void score(const char* function, Model& model, std::span<const TokenIds> sequences,
           std::span<const int64_t> ends, const RunOptions& options, bool openings,
           const Name& name_of, const Sink& sink, const at::Tensor& out) try {
  c10::InferenceMode guard;
  int64_t done = 0;
  const auto all = static_cast<int64_t>(sequences.size());
  auto shared = fanned(function, model, sequences, ends, options, openings);
  const bool in_front = shared.has_value();
  const auto take = [&](Run& run, const Batch& batch, const auto& logits_at) {
    run.report(std::min(done, all), all);
    std::vector<int64_t> lengths;
    for (const int64_t row : batch.rows)
      lengths.push_back(static_cast<int64_t>(sequences[static_cast<size_t>(row)].size()) -
                        ends[static_cast<size_t>(row)]);
    const int64_t longest = *std::max_element(lengths.begin(), lengths.end());
    const int64_t fresh = batch.ids.size(1);
    // The token before a continuation predicts its first one; a shared prefix may hold it.
    if (longest >= fresh)
      throw_error(
          "{}: expected prompts beyond their common prefix, got none; set RunOptions::share_prefix "
          "to false",
          function);
    const at::Tensor keep = at::arange(fresh - 1 - longest, fresh - 1, batch.ids.options());
    at::Tensor logits = logits_at(keep).to(at::kFloat);
    const at::Tensor place = at::arange(longest, at::kLong);
    const at::Tensor length = at::tensor(lengths, at::kLong).unsqueeze(1);
    const at::Tensor counted =
        (in_front ? place.lt(length) : place.ge(longest - length)).to(logits.device());
    const Scored scored{batch, log_probabilities(std::move(logits)),
                        batch.ids.narrow(1, fresh - longest, longest), counted};
    const at::Tensor numbers = sink(scored);
    // The first token whose logits mean nothing; `longest` where all are fine. An overflow makes
    // every log probability of its row NaN.
    const at::Tensor bad =
        meaningless(scored.log_p, scored.log_p.select(-1, 0).isnan()).logical_and(counted);
    const at::Tensor first = place.to(bad.device()).masked_fill(bad.logical_not(), longest);
    const at::Tensor read =
        at::cat({numbers, first.amin(-1, true).to(at::kDouble)}, 1).to(at::kCPU);
    for (size_t r = 0; r < batch.rows.size(); ++r) {
      const at::Tensor row = read[static_cast<int64_t>(r)];
      const auto at_token = static_cast<int64_t>(row[-1].item<double>());
      if (at_token < longest)
        throw_meaningless(function, name_of(batch.rows[r]),
                          in_front ? at_token : at_token - (longest - lengths[r]));
      out.select(0, batch.rows[r]).copy_(row.narrow(0, 0, row.size(0) - 1));
    }
    done += static_cast<int64_t>(batch.rows.size());
  };
  if (shared) {
    RunOptions apart = options;
    apart.share_prefix = false;
    Run run(function, model, sequences, apart, 0, ends);
    const int64_t prefix = options.share_prefix ? run.common_part() : 0;
    Fan(run, options, ends, *std::move(shared), prefix, openings)
        .each([&](const Batch& batch, const auto& logits) { take(run, batch, logits); });
  } else {
    Run run(function, model, sequences, options, 0, ends);
    for (const Batch& batch : run.batches()) {
      run.steer(batch.rows);
      take(run, batch, [&](const at::Tensor& keep) {
        return run.logits(run.first_step(batch, run.cache(batch.rows, batch.mask.size(1)), keep));
      });
    }
  }
  if (options.progress) options.progress(all, all);
} catch (const std::exception& error) {
  rethrow(function, error);
}

/// Sum of the log probabilities of a continuation's tokens, float64 [rows].
at::Tensor likelihood(const Scored& s) {
  const at::Tensor mine = s.log_p.gather(2, s.ids.unsqueeze(-1)).squeeze(-1).to(at::kDouble);
  return mine.masked_fill(s.counted.logical_not(), 0.0).sum(-1);
}

std::vector<int64_t> lengths_of(std::span<const TokenIds> prompts) {
  std::vector<int64_t> out;
  for (const TokenIds& p : prompts) out.push_back(static_cast<int64_t>(p.size()));
  return out;
}

/// A shared prefix must end before every continuation's predecessor: continuations of one prompt
/// may themselves begin alike.
bool prefix_is_safe(std::span<const TokenIds> prompts, std::span<const TokenIds> sequences) {
  const int64_t prefix = common_prefix(sequences);
  return std::all_of(prompts.begin(), prompts.end(),
                     [&](const TokenIds& p) { return prefix < static_cast<int64_t>(p.size()); });
}

/// Whether some prompts stand before several continuations: choices of a question, for instance.
bool share_prompts(std::span<const TokenIds> prompts) {
  std::set<TokenIds> seen(prompts.begin(), prompts.end());
  return 2 * seen.size() <= prompts.size();
}

}  // namespace

at::Tensor log_likelihood(Model& model, std::span<const TokenIds> prompts,
                          std::span<const TokenIds> continuations, const RunOptions& options) {
  const std::vector<TokenIds> sequences = join("log_likelihood", prompts, continuations);
  const std::vector<int64_t> ends = lengths_of(prompts);
  RunOptions run = options;
  if (options.batch_rows > 0)  // else Run refuses it
    run.batch_rows = rows_that_fit(continuations, model.info().vocab, options.batch_rows);
  run.share_prefix = options.share_prefix && prefix_is_safe(prompts, sequences);
  const at::Tensor out = at::zeros({static_cast<int64_t>(prompts.size()), 1}, at::kDouble);
  score(
      "log_likelihood", model, sequences, ends, run, options.share_prefix && share_prompts(prompts),
      [](int64_t row) { return row; }, [](const Scored& s) { return likelihood(s).unsqueeze(1); },
      out);
  return out.squeeze(1);
}

Divergence divergence(Model& model, std::span<const TokenIds> prompts,
                      std::span<const TokenIds> continuations, const RunOptions& options) {
  const std::vector<TokenIds> joined = join("divergence", prompts, continuations);
  const int64_t arms = options.intervention.arms();
  const auto n = static_cast<int64_t>(prompts.size());
  // Rows go prompt by prompt: the reference, then the arms. Batches keep that order (a group's rows
  // are equally long, and the sort is stable), so a reference may be of the batch before.
  std::vector<TokenIds> sequences;
  std::vector<int64_t> ends;
  RunOptions run = options;
  run.arm_of_prompt.clear();
  for (size_t i = 0; i < joined.size(); ++i) {
    for (int64_t arm = 0; arm < arms; ++arm) {
      sequences.push_back(joined[i]);
      ends.push_back(static_cast<int64_t>(prompts[i].size()));
      run.arm_of_prompt.push_back(arm);
    }
  }
  if (options.batch_rows > 0)
    run.batch_rows = rows_that_fit(continuations, model.info().vocab, options.batch_rows);
  if (options.batch_tokens >= 0) run.batch_tokens = std::numeric_limits<int64_t>::max();
  run.share_prefix = options.share_prefix && prefix_is_safe(prompts, joined);
  const at::Tensor out = at::zeros({n * arms, 2}, at::kDouble);
  std::map<int64_t, Reference> reference;  // by prompt
  score(
      "divergence", model, sequences, ends, run, false, [&](int64_t row) { return row / arms; },
      [&](const Scored& s) {
        std::vector<at::Tensor> kl;
        for (size_t r = 0; r < s.batch.rows.size(); ++r) {
          const auto i = static_cast<size_t>(s.batch.rows[r]);
          const int64_t length = static_cast<int64_t>(sequences[i].size()) - ends[i];
          const at::Tensor mine = s.log_p.select(0, static_cast<int64_t>(r))
                                      .narrow(0, s.log_p.size(1) - length, length);
          const int64_t prompt = s.batch.rows[r] / arms;
          if (s.batch.rows[r] % arms == 0) reference[prompt] = Reference::of(mine);
          kl.push_back(kl_of(reference.at(prompt), mine));
        }
        // The last prompt's arms may go on in the next batch; this batch's other logits go.
        const int64_t last = s.batch.rows.back() / arms;
        Reference kept = reference.at(last);
        kept.log_p = kept.log_p.clone();
        reference.clear();
        reference[last] = std::move(kept);
        return at::stack({at::stack(kl), likelihood(s)}, 1);
      },
      out);
  const at::Tensor by_arm = out.view({n, arms, 2}).permute({2, 1, 0}).contiguous();
  return {by_arm[0], by_arm[1]};
}

at::Tensor prompt_divergence(Model& model, std::span<const TokenIds> prompts,
                             std::span<const TokenIds> other_prompts,
                             std::span<const TokenIds> continuations, const RunOptions& options) {
  const std::vector<TokenIds> own = join("prompt_divergence", prompts, continuations);
  const std::vector<TokenIds> other = join("prompt_divergence", other_prompts, continuations);
  const std::vector<int64_t> own_ends = lengths_of(prompts), other_ends = lengths_of(other_prompts);
  RunOptions run = options;
  if (options.batch_rows > 0)
    run.batch_rows = rows_that_fit(continuations, model.info().vocab, options.batch_rows);
  if (options.batch_tokens >= 0) run.batch_tokens = std::numeric_limits<int64_t>::max();
  const auto at_once = static_cast<size_t>(std::max<int64_t>(run.batch_rows, 1));
  const at::Tensor out = at::zeros({static_cast<int64_t>(own.size()), 1}, at::kDouble);
  for (size_t first = 0; first < own.size(); first += at_once) {
    const size_t n = std::min(at_once, own.size() - first);
    const auto start = static_cast<int64_t>(first), count = static_cast<int64_t>(n);
    std::vector<Reference> reference(n);
    const auto each = [&](const Scored& s, const auto& take) {  // each row's [tokens, vocab]
      std::vector<at::Tensor> numbers;
      for (size_t r = 0; r < s.batch.rows.size(); ++r) {
        const auto i = static_cast<size_t>(s.batch.rows[r]);
        const auto length = static_cast<int64_t>(continuations[first + i].size());
        numbers.push_back(take(i, s.log_p.select(0, static_cast<int64_t>(r))
                                      .narrow(0, s.log_p.size(1) - length, length)));
      }
      return at::stack(numbers).unsqueeze(1);
    };
    const auto pass = [&](const std::vector<TokenIds>& sequences, const std::vector<int64_t>& ends,
                          std::span<const TokenIds> asked, int64_t arm, const auto& take) {
      const auto rows = std::span(sequences).subspan(first, n);
      run.arm_of_prompt.assign(n, arm);
      run.share_prefix = options.share_prefix && prefix_is_safe(asked.subspan(first, n), rows);
      score(
          "prompt_divergence", model, rows, std::span(ends).subspan(first, n), run, false,
          [&](int64_t row) { return start + row; }, [&](const Scored& s) { return each(s, take); },
          out.narrow(0, start, count));
    };
    pass(own, own_ends, prompts, 0, [&](size_t i, const at::Tensor& log_p) {
      reference[i] = Reference::of(log_p.clone());
      return at::zeros({}, log_p.options().dtype(at::kDouble));
    });
    pass(other, other_ends, other_prompts, options.intervention.arms() - 1,
         [&](size_t i, const at::Tensor& log_p) { return kl_of(reference[i], log_p); });
  }
  return out.squeeze(1);
}

}  // namespace cna
