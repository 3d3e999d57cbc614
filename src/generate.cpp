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

namespace {

/// Answers being written, and who is told of each token.
struct Answers {
  const GenerateOptions& generation;
  std::vector<int64_t> eos;
  Taps& taps;
  Watch* watch;
  FollowedCircuit* followed;  ///< of the watch
  std::vector<TokenIds> written;
  int64_t tokens_done = 0;  ///< those that an answer did not need count as well

  /// One token of each of these rows; those that end leave.
  void step(Decoder& decoder, bool ahead = true) {
    const std::vector<int64_t> tokens = decoder.step(ahead);
    if (followed) watch->see(decoder.rows(), followed->take(taps).select(1, -1));
    std::vector<bool> ended(tokens.size());
    for (size_t i = 0; i < tokens.size(); ++i) {
      const int64_t row = decoder.rows()[i];
      TokenIds& answer = written[static_cast<size_t>(row)];
      if (std::find(eos.begin(), eos.end(), tokens[i]) != eos.end()) {
        ended[i] = true;
        if (followed) watch->forget_last(row);
      } else {
        answer.push_back(tokens[i]);
        if (generation.on_token) generation.on_token(generation.first_prompt + row, tokens[i]);
        ended[i] = static_cast<int64_t>(answer.size()) == generation.max_new_tokens;
      }
      if (ended[i] && generation.on_answer)
        generation.on_answer(generation.first_prompt + row, answer);
      tokens_done += ended[i] ? generation.max_new_tokens - decoder.answered()[i] : 1;
    }
    decoder.advance(ended);
  }
};

/// Whether rows that wait may take the places of rows that ended.
bool rows_may_join(const Run& run, const GenerateOptions& generation, const RunOptions& options,
                   const std::vector<int64_t>& eos) {
  const ModelInfo& info = run.info();
  return info.has_cache() && info.layouts.batch && info.layouts.padding && !eos.empty() &&
         generation.max_new_tokens > 1 &&
         static_cast<int64_t>(run.prompts().size()) > options.batch_rows;
}

}  // namespace

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
  Answers answers{
      generation, end_tokens(generation, run.info()), taps,
      watch,      followed ? &*followed : nullptr,    std::vector<TokenIds>(prompts.size())};
  const int64_t total = static_cast<int64_t>(prompts.size()) * generation.max_new_tokens;
  const bool join = rows_may_join(run, generation, options, answers.eos);
  const std::vector<Batch> waiting = join ? run.blocks() : run.batches();
  std::optional<Decoder> under_way;
  for (size_t next = 0; next < waiting.size() || (under_way && !under_way->done());) {
    run.report(answers.tokens_done, total);
    const bool idle = !under_way || under_way->done();
    const bool room =
        next < waiting.size() && (idle || (join && run.fit(under_way->rows(), waiting[next])));
    if (room && !idle && under_way->ran_ahead()) {
      answers.step(*under_way, /*ahead=*/false);  // nobody joins behind a step that is not read
    } else if (room) {
      if (idle) under_way.reset();  // its keys and values go before others come
      const Batch& batch = waiting[next++];
      run.steer(batch.rows);
      Decoder fresh(run, batch, generation, watch != nullptr);
      answers.step(fresh, /*ahead=*/idle);
      if (idle)
        under_way.emplace(std::move(fresh));
      else
        under_way->join(std::move(fresh));
    } else {
      answers.step(*under_way);
    }
  }
  run.report(total, total);
  return std::move(answers.written);
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
