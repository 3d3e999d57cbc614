#include "cna/torch/generate.hpp"

#include <ATen/ATen.h>

#include <algorithm>
#include <limits>
#include <optional>

#include "cna/error.hpp"
#include "cna/torch/watch.hpp"
#include "decoder.hpp"
#include "finite.hpp"
#include "followed.hpp"
#include "run.hpp"
#include "step_error.hpp"

namespace cna {

void require_options(const char* function, const GenerateOptions& g) {
  constexpr int64_t most = std::numeric_limits<int32_t>::max();
  if (g.max_new_tokens < 1 || g.max_new_tokens > most)
    throw_value_error("{}: expected max_new_tokens from 1 to {}, got {}; ask for some tokens",
                      function, most, g.max_new_tokens);
  if (!(g.temperature >= 0.0) || !std::isfinite(g.temperature))
    throw_value_error("{}: expected a temperature of 0 or more, got {}; 0 is greedy", function,
                      g.temperature);
  if (g.top_k < 0)
    throw_value_error("{}: expected top_k of 0 or more, got {}; 0 keeps all", function, g.top_k);
  if (!(g.top_p > 0.0 && g.top_p <= 1.0))
    throw_value_error("{}: expected top_p above 0 and up to 1, got {}; 1 keeps all", function,
                      g.top_p);
}

std::vector<int64_t> end_tokens(const GenerateOptions& options, const ModelInfo& info) {
  if (options.ignore_eos) return {};
  return options.eos_ids.empty() ? info.eos_ids : options.eos_ids;
}

std::vector<TokenIds> generate(Model& model, std::span<const TokenIds> prompts,
                               const GenerateOptions& generation, const RunOptions& options,
                               Watch* watch) try {
  require_options("generate", generation);
  std::optional<FollowedCircuit> followed;
  if (watch != nullptr) followed.emplace("generate", watch->gate().circuit(), model.shape());
  Run run("generate", model, prompts, options, generation.max_new_tokens);
  c10::InferenceMode guard;
  Taps& taps = run.host().taps();
  if (followed) {
    watch->begin(static_cast<int64_t>(prompts.size()));
    followed->start(taps);
  }
  const std::vector<int64_t> eos = end_tokens(generation, run.info());
  std::vector<TokenIds> answers(prompts.size());
  const std::vector<Batch> batches = run.batches();
  const int64_t total = static_cast<int64_t>(batches.size()) * generation.max_new_tokens;
  int64_t before = 0;
  for (const Batch& batch : batches) {
    run.steer(batch.rows);
    Decoder decoder(run, batch, generation);
    for (int64_t n = 1; n <= generation.max_new_tokens && !decoder.done(); ++n) {
      run.report(before + n - 1, total);
      const std::vector<int64_t> tokens = decoder.step(n - 1);
      if (followed) watch->see(decoder.rows(), n - 1, followed->take(taps).select(1, -1));
      std::vector<bool> ended(tokens.size());
      for (size_t i = 0; i < tokens.size(); ++i) {
        const int64_t row = decoder.rows()[i];
        ended[i] = std::find(eos.begin(), eos.end(), tokens[i]) != eos.end();
        if (ended[i]) {
          if (followed) watch->forget_last(row);
          continue;
        }
        answers[static_cast<size_t>(row)].push_back(tokens[i]);
        if (generation.on_token) generation.on_token(row, tokens[i]);
      }
      if (n < generation.max_new_tokens) decoder.advance(ended);
    }
    before += generation.max_new_tokens;
  }
  run.report(total, total);
  return answers;
} catch (const std::exception& error) {
  rethrow("generate", error);
}

at::Tensor last_logits(Model& model, std::span<const TokenIds> prompts,
                       const RunOptions& options) try {
  Run run("logits", model, prompts, options);
  c10::InferenceMode guard;
  at::Tensor out;
  int64_t done = 0;
  for (const Batch& batch : run.batches()) {
    run.report(done, static_cast<int64_t>(prompts.size()));
    run.steer(batch.rows);
    const at::Tensor last = at::full({1}, batch.ids.size(1) - 1, batch.ids.options());
    const Step step = run.first_step(batch, run.cache(batch.rows, batch.mask.size(1)), last);
    const at::Tensor here = run.logits(step).select(1, 0);
    const at::Tensor bad = meaningless(here).to(at::kCPU);
    const at::Tensor logits = here.to(at::kCPU, at::kFloat);
    for (size_t i = 0; i < batch.rows.size(); ++i)
      if (bad.data_ptr<bool>()[i]) throw_meaningless("logits", batch.rows[i], 0);
    if (!out.defined()) {
      c10::InferenceMode off(false);  // the caller's own tensor: it may be changed, or learned from
      out = at::empty({static_cast<int64_t>(prompts.size()), logits.size(1)}, at::kFloat);
    }
    out.index_copy_(0, at::tensor(batch.rows, at::kLong), logits);
    done += static_cast<int64_t>(batch.rows.size());
  }
  run.report(done, static_cast<int64_t>(prompts.size()));
  return out;
} catch (const std::exception& error) {
  rethrow("logits", error);
}

}  // namespace cna
