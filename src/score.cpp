#include "cna/torch/score.hpp"

#include <ATen/ATen.h>

#include <algorithm>
#include <limits>

#include "cna/error.hpp"
#include "run.hpp"
#include "step_error.hpp"

namespace cna {
namespace {

constexpr int64_t kLogitBytes = int64_t{256} << 20;  // of one batch, so that memory stays bounded

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
  const int64_t bytes = static_cast<int64_t>(longest) * std::max<int64_t>(vocab, 1) * 4;
  return std::clamp<int64_t>(kLogitBytes / bytes, 1, std::max<int64_t>(rows, 1));
}

/// Calls sink(prompt numbers, log probabilities [rows, longest, vocab], continuation lengths) for
/// each batch; a row's continuation lies in its last places.
template <class Sink>
void for_each_batch(const char* function, Model& model, std::span<const TokenIds> sequences,
                    std::span<const int64_t> lengths, const RunOptions& options,
                    const Sink& sink) try {
  c10::InferenceMode guard;
  Run run(function, model, sequences, options);
  int64_t done = 0;
  for (const Batch& batch : run.batches()) {
    run.report(done, static_cast<int64_t>(sequences.size()));
    run.steer(batch.rows);
    int64_t longest = 0;
    for (const int64_t row : batch.rows)
      longest = std::max(longest, lengths[static_cast<size_t>(row)]);
    const int64_t fresh = batch.ids.size(1);
    // The token before a continuation predicts its first one; a shared prefix may hold it.
    if (longest >= fresh)
      throw_error(
          "{}: expected prompts beyond their common prefix, got none; set RunOptions::share_prefix "
          "to false",
          function);
    const at::Tensor keep = at::arange(fresh - 1 - longest, fresh - 1, batch.ids.options());
    const Step step = run.first_step(batch, run.cache(batch.rows, batch.mask.size(1)), keep);
    const at::Tensor log_p = run.host().logits(step).to(at::kFloat).log_softmax(-1);
    sink(batch, log_p, longest);
    done += static_cast<int64_t>(batch.rows.size());
  }
  run.report(done, static_cast<int64_t>(sequences.size()));
} catch (const std::exception& error) {
  rethrow(function, error);
}

/// Log probability of each of the last `longest` tokens of a batch, float64 [rows, longest], on the
/// CPU: one read for all rows.
at::Tensor of_tokens(const at::Tensor& log_p, const at::Tensor& ids, int64_t longest) {
  const at::Tensor tokens = ids.narrow(1, ids.size(1) - longest, longest);
  return log_p.gather(2, tokens.unsqueeze(2)).squeeze(2).to(at::kCPU).to(at::kDouble);
}

double sum_of_last(const at::Tensor& scores, int64_t row, int64_t length) {
  return scores.select(0, row).narrow(0, scores.size(1) - length, length).sum().item<double>();
}

std::vector<int64_t> lengths_of(std::span<const TokenIds> continuations) {
  std::vector<int64_t> out;
  for (const TokenIds& c : continuations) out.push_back(static_cast<int64_t>(c.size()));
  return out;
}

/// A shared prefix must end before every continuation's predecessor: continuations of one prompt
/// may themselves begin alike.
bool prefix_is_safe(std::span<const TokenIds> prompts, std::span<const TokenIds> sequences) {
  const int64_t prefix = common_prefix(sequences);
  return std::all_of(prompts.begin(), prompts.end(),
                     [&](const TokenIds& p) { return prefix < static_cast<int64_t>(p.size()); });
}

}  // namespace

at::Tensor log_likelihood(Model& model, std::span<const TokenIds> prompts,
                          std::span<const TokenIds> continuations, const RunOptions& options) {
  const std::vector<TokenIds> sequences = join("log_likelihood", prompts, continuations);
  const std::vector<int64_t> lengths = lengths_of(continuations);
  RunOptions run = options;
  if (options.batch_rows > 0)  // else Run refuses it
    run.batch_rows = rows_that_fit(continuations, model.info().vocab, options.batch_rows);
  run.share_prefix = options.share_prefix && prefix_is_safe(prompts, sequences);
  at::Tensor out = at::zeros({static_cast<int64_t>(prompts.size())}, at::kDouble);
  for_each_batch("log_likelihood", model, sequences, lengths, run,
                 [&](const Batch& batch, const at::Tensor& log_p, int64_t longest) {
                   const at::Tensor scores = of_tokens(log_p, batch.ids, longest);
                   for (size_t r = 0; r < batch.rows.size(); ++r) {
                     const auto row = static_cast<size_t>(batch.rows[r]);
                     out.data_ptr<double>()[row] =
                         sum_of_last(scores, static_cast<int64_t>(r), lengths[row]);
                   }
                 });
  return out;
}

Divergence divergence(Model& model, std::span<const TokenIds> prompts,
                      std::span<const TokenIds> continuations, const RunOptions& options) {
  const std::vector<TokenIds> joined = join("divergence", prompts, continuations);
  const int64_t arms = options.intervention.arms();
  const auto n = static_cast<int64_t>(prompts.size());
  // Rows go prompt by prompt, so that each batch holds whole groups: the reference, then the arms.
  std::vector<TokenIds> sequences;
  std::vector<int64_t> lengths;
  RunOptions run = options;
  run.arm_of_prompt.clear();
  for (size_t i = 0; i < joined.size(); ++i) {
    for (int64_t arm = 0; arm < arms; ++arm) {
      sequences.push_back(joined[i]);
      lengths.push_back(static_cast<int64_t>(continuations[i].size()));
      run.arm_of_prompt.push_back(arm);
    }
  }
  const int64_t fits = rows_that_fit(continuations, model.info().vocab, options.batch_rows);
  if (options.batch_rows > 0) run.batch_rows = std::max<int64_t>(1, fits / arms) * arms;
  if (options.batch_tokens >= 0) run.batch_tokens = std::numeric_limits<int64_t>::max();
  run.share_prefix = options.share_prefix && prefix_is_safe(prompts, joined);
  Divergence out{at::zeros({arms, n}, at::kDouble), at::zeros({arms, n}, at::kDouble)};
  at::Tensor reference;
  for_each_batch("divergence", model, sequences, lengths, run,
                 [&](const Batch& batch, const at::Tensor& log_p, int64_t longest) {
                   const at::Tensor scores = of_tokens(log_p, batch.ids, longest);
                   std::vector<at::Tensor> kls;  // read together
                   for (size_t r = 0; r < batch.rows.size(); ++r) {
                     const int64_t row = batch.rows[r], arm = row % arms, prompt = row / arms;
                     const int64_t length = lengths[static_cast<size_t>(row)];
                     const auto at_row = [&](int64_t i) {
                       return log_p.select(0, i).narrow(0, longest - length, length);
                     };
                     // Without a cache a group's rows come one batch after the other.
                     if (arm == 0) reference = at_row(static_cast<int64_t>(r)).clone();
                     const at::Tensor gap = reference - at_row(static_cast<int64_t>(r));
                     kls.push_back((reference.exp() * gap).sum(-1).to(at::kDouble).mean());
                     out.log_likelihood.data_ptr<double>()[arm * n + prompt] =
                         sum_of_last(scores, static_cast<int64_t>(r), length);
                   }
                   const at::Tensor kl = at::stack(kls).to(at::kCPU);
                   for (size_t r = 0; r < batch.rows.size(); ++r) {
                     const int64_t row = batch.rows[r];
                     out.kl.data_ptr<double>()[row % arms * n + row / arms] =
                         kl[static_cast<int64_t>(r)].item<double>();
                   }
                 });
  return out;
}

}  // namespace cna
