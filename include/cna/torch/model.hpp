/// A model with taps: the object that recording, generation and scoring work on.
///
/// It owns a host and a lock: calls from several threads on one model take turns, and no call
/// leaves a trace in the model (taps are reset when a run ends, also by an exception).
#pragma once

#include <filesystem>
#include <functional>
#include <memory>
#include <mutex>
#include <span>
#include <vector>

#include "cna/torch/host.hpp"
#include "cna/torch/intervention.hpp"
#include "cna/torch/tokens.hpp"

namespace cna {

class Model {
 public:
  explicit Model(std::unique_ptr<Host> host) : host_(std::move(host)) {}

  /// Opens an exported folder or a traced TorchScript file; see open_host for errors.
  static Model load(const std::filesystem::path& path, const HostOptions& options = {}) {
    return Model(open_host(path, options));
  }

  const ModelInfo& info() const { return host_->info(); }
  GridShape shape() const { return info().shape; }
  /// Moves the model; device constants of the graph move along.
  void to(c10::Device device) {
    std::lock_guard lock(*mutex_);
    host_->to(device);
  }
  Host& host() { return *host_; }
  std::mutex& mutex() { return *mutex_; }

 private:
  std::unique_ptr<Host> host_;
  std::unique_ptr<std::mutex> mutex_ = std::make_unique<std::mutex>();
};

/// How a run over many prompts goes: batches, steering, and how it is watched.
struct RunOptions {
  int64_t batch_rows = 64;  ///< prompts per batch, at most
  /// Tokens per batch, at most, padding included. 0: what was measured to be fastest, see below.
  int64_t batch_tokens = 0;
  bool share_prefix = true;  ///< compute the common prefix of all prompts once
  Intervention intervention{1};
  std::vector<int64_t> arm_of_prompt;  ///< one arm per prompt; empty: arm 0 for all
  std::function<void()> poll;          ///< called often; throws to stop the run
  std::function<void(int64_t done, int64_t total)> progress;
};

/// What one more batch costs, in tokens: reading all weights once takes as long as about so many.
inline constexpr int64_t kBatchOverhead = 48;

/// Tokens per batch where the caller set none. Passes over whole prompts on a CPU are fastest when
/// a batch's activations stay in its caches (640 beat 400 and 2048 on SmolLM2, docs/benchmarks.md).
inline int64_t default_batch_tokens(c10::Device device, bool generates) {
  return generates || !device.is_cpu() ? 16384 : 640;
}

/// A run over prompts: holds the lock, the edits and the keys and values of the shared prefix.
class Run {
 public:
  /// @param room  tokens that will follow each prompt, for the length check.
  Run(const char* function, Model& model, std::span<const TokenIds> prompts,
      const RunOptions& options, int64_t room = 0);
  ~Run();
  Run(const Run&) = delete;
  Run& operator=(const Run&) = delete;

  Host& host() { return model_.host(); }
  const ModelInfo& info() const { return model_.info(); }
  std::span<const TokenIds> prompts() const { return prompts_; }
  int64_t prefix() const { return prefix_; }
  std::vector<Batch> batches() const;
  std::vector<int64_t> arms(std::span<const int64_t> rows) const;

  /// Edits for a batch whose rows are these prompts; stays until the next call.
  void steer(std::span<const int64_t> rows);
  /// Key and value buffers [rows, heads, capacity, dim] with the prefix filled in.
  std::vector<at::Tensor> cache(std::span<const int64_t> rows, int64_t capacity) const;
  /// The first step of a batch; `cache` from above, `keep` indices into the new tokens.
  Step first_step(const Batch& batch, const std::vector<at::Tensor>& cache, at::Tensor keep) const;
  void report(int64_t done, int64_t total) const;

 private:
  void compute_prefix();

  Model& model_;
  std::unique_lock<std::mutex> lock_;
  std::span<const TokenIds> prompts_;
  const RunOptions& options_;
  int64_t room_;
  int64_t prefix_ = 0;
  std::vector<at::Tensor> prefix_cache_;  // [arms, heads, prefix, dim]
};

/// The buffers' first `rows` rows and `total` places.
std::vector<at::Tensor> view_cache(const std::vector<at::Tensor>& cache, int64_t rows,
                                   int64_t total);

/// Runs one step of zeros and returns the shape of the logits. On the "meta" device this computes
/// nothing, but fails if the graph still holds a constant of another device.
std::vector<int64_t> dry_run(Model& model, int64_t rows, int64_t fresh, int64_t past);

}  // namespace cna
