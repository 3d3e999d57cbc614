#include "batch_limits.hpp"

#include <algorithm>

namespace cna {
namespace {

/// What one more batch costs, in tokens of the same model, and how many tokens a batch may have.
struct BatchCost {
  int64_t overhead = 0;
  int64_t tokens = 0;
};

/// A CPU: reading all weights once takes as long as 48 tokens do, and a batch is fastest while its
/// activations stay in the caches (640 beat 400 and 2048 on SmolLM2). Both measured,
/// docs/benchmarks.md.
constexpr BatchCost kCpu{48, 640};

/// An accelerator: the host starts kernels one by one, about 170 us a layer (estimated: 37 kernels
/// and 96 calls), while the device works through about 3e14 operations a second, two for each
/// weight and token. So a layer of w weights costs 170e-6 * 3e14 / (2 w) tokens, and reading the
/// weights about 100 more. SmolLM2-135M: some 6,500; a model of 8 billion: some 200.
/// Estimated; hosts of two H200 took 360 to 700 us a layer: larger batches might do better there.
BatchCost accelerator(const ModelInfo& model) {
  constexpr double launches = 170e-6 * 3e14 / 2.0;
  constexpr int64_t reading = 100;
  const auto width = static_cast<double>(model.shape.size()) /
                     static_cast<double>(std::max<int64_t>(model.shape.layers, 1));  // on average
  const auto hidden = static_cast<double>(std::max<int64_t>(model.hidden, 1));
  const double weights = 3.0 * width * hidden + 4.0 * hidden * hidden;  // gated MLP and attention
  return {reading + static_cast<int64_t>(launches / std::max(weights, 1.0)), 16384};
}

/// Keys and values of one batch: a long shared prefix is copied into every row.
constexpr int64_t kCacheBytes = int64_t{4} << 30;

int64_t cache_places(const ModelInfo& info) {
  int64_t bytes = 0;
  for (const CacheShape& layer : info.cache)
    bytes += layer.heads * (layer.key_dim + layer.value_dim) *
             static_cast<int64_t>(c10::elementSize(info.dtype));
  return bytes > 0 ? std::max<int64_t>(1, kCacheBytes / bytes) : 0;
}

}  // namespace

int64_t prefill_tokens(const ModelInfo& model, const RunOptions& options) {
  return model.device.is_cpu() && options.batch_tokens == 0 ? kCpu.tokens : 0;
}

BatchLimits batch_limits(const ModelInfo& model, const RunOptions& options, int64_t room) {
  const bool generates = room > 0;
  const BatchCost cost = model.device.is_cpu() ? kCpu : accelerator(model);
  BatchLimits limits;
  // Files traced elsewhere often hold the batch size of their example: one prompt at a time.
  limits.rows = model.has_cache() && model.layouts.batch ? options.batch_rows : 1;
  limits.padding = model.layouts.padding;
  limits.tokens = options.batch_tokens > 0 ? options.batch_tokens : generates ? 16384 : cost.tokens;
  limits.overhead = generates ? 0 : cost.overhead;
  limits.places = cache_places(model);
  limits.room = room;
  return limits;
}

}  // namespace cna
