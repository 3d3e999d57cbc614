#include "cna/torch/token_recorder.hpp"

#include <ATen/ATen.h>

#include "cna/error.hpp"
#include "followed.hpp"
#include "run.hpp"
#include "step_error.hpp"

namespace cna {

void record_tokens(Model& model, std::span<const TokenIds> prompts, const Circuit& circuit,
                   const RunOptions& options, const TokenSink& sink) try {
  const FollowedCircuit followed("record", circuit, model.shape());
  RunOptions whole = options;
  whole.share_prefix = false;
  Run run("record", model, prompts, whole);
  c10::InferenceMode guard;
  Taps& taps = run.host().taps();
  followed.start(taps);
  int64_t done = 0;
  for (const Batch& batch : run.batches()) {
    run.report(done, static_cast<int64_t>(prompts.size()));
    run.steer(batch.rows);
    const int64_t tokens = batch.ids.size(1);
    const at::Tensor last = at::full({1}, tokens - 1, batch.ids.options());
    run.host().run_to_last_tap(run.first_step(batch, run.cache(batch.rows, tokens), last));
    const at::Tensor all = followed.take(taps);
    for (size_t i = 0; i < batch.rows.size(); ++i) {
      const int64_t row = batch.rows[i];
      const auto own = static_cast<int64_t>(prompts[static_cast<size_t>(row)].size());
      const at::Tensor mine = all[static_cast<int64_t>(i)].narrow(0, tokens - own, own);
      if (!mine.isfinite().all().item<bool>())
        throw_as<NonFinite>(
            "record: expected finite activations, got NaN or infinity at prompt {}; use a wider "
            "dtype (float32 or bfloat16)",
            row);
      sink(row, mine);
    }
    done += static_cast<int64_t>(batch.rows.size());
  }
  run.report(done, static_cast<int64_t>(prompts.size()));
} catch (const std::exception& error) {
  rethrow("record", error);
}

}  // namespace cna
