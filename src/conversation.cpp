#include "cna/torch/conversation.hpp"

#include <ATen/ATen.h>

#include <algorithm>
#include <utility>

#include "cna/error.hpp"
#include "decoder.hpp"
#include "run.hpp"
#include "step_error.hpp"

namespace cna {

void Conversation::clear() {
  tokens_.clear();
  cache_.clear();
  reused_ = 0;
}

TokenIds Conversation::answer(const TokenIds& prompt, const GenerateOptions& generation,
                              const RunOptions& options) try {
  require_options("chat", generation);
  const std::vector<TokenIds> prompts{prompt};
  Run run("chat", *model_, prompts, options, generation.max_new_tokens);
  c10::InferenceMode guard;
  const ModelInfo& info = run.info();
  const bool keeps = info.has_cache() && info.layouts.share_prefix;
  if (!keeps && options.intervention.last() > 0)
    throw_value_error(
        "chat: expected steering of every token on a model that runs whole prompts, got some "
        "positions only; steer at positions \"all\", or use a model with keys and values");
  // One token at least is computed: the answer begins behind it.
  const auto most = static_cast<int64_t>(std::min(tokens_.size(), prompt.size() - 1));
  int64_t shared = 0;
  while (keeps && shared < most &&
         tokens_[static_cast<size_t>(shared)] == prompt[static_cast<size_t>(shared)])
    ++shared;
  const auto length = static_cast<int64_t>(prompt.size());
  const auto longs = at::TensorOptions(at::kLong).device(info.device);
  const Batch batch{{0},
                    at::tensor(at::ArrayRef<int64_t>(prompt), at::kLong)
                        .narrow(0, shared, length - shared)
                        .unsqueeze(0)
                        .to(info.device),
                    at::ones({1, length}, longs),
                    at::arange(shared, length, longs).unsqueeze(0)};
  run.steer(batch.rows);
  Decoder decoder(run, batch, generation);
  decoder.start_from(cache_, shared);
  clear();  // what follows may fail halfway
  reused_ = shared;
  const std::vector<int64_t> eos = end_tokens(generation, info);
  TokenIds answer;
  for (int64_t n = 1; n <= generation.max_new_tokens; ++n) {
    run.report(n - 1, generation.max_new_tokens);
    const int64_t token = decoder.step()[0];
    if (std::find(eos.begin(), eos.end(), token) != eos.end()) break;
    answer.push_back(token);
    if (generation.on_token) generation.on_token(0, token);
    if (n < generation.max_new_tokens) decoder.advance({false});
  }
  run.report(generation.max_new_tokens, generation.max_new_tokens);
  if (keeps) {
    tokens_ = prompt;
    tokens_.insert(tokens_.end(), answer.begin(), answer.end());
    tokens_.resize(std::min(tokens_.size(), static_cast<size_t>(decoder.filled())));
    cache_ = decoder.cache();
  }
  return answer;
} catch (const std::exception& error) {
  rethrow("chat", error);
}

}  // namespace cna
