/// A model with taps: the object that recording, generation and scoring work on.
///
/// It owns a host and a lock: calls from several threads on one model take turns, and no call
/// leaves a trace in the model (taps are reset when a run ends, also by an exception).
#pragma once

#include <atomic>
#include <filesystem>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "cna/error.hpp"
#include "cna/torch/host.hpp"
#include "cna/torch/intervention.hpp"

namespace cna {

class Model {
 public:
  explicit Model(std::unique_ptr<Host> host) : host_(std::move(host)) {}

  /// Opens an exported folder or a traced TorchScript file; see open_host for errors.
  [[nodiscard]] static Model load(const std::filesystem::path& path,
                                  const HostOptions& options = {}) {
    return Model(open_host(path, options));
  }

  [[nodiscard]] const ModelInfo& info() const { return host_->info(); }
  [[nodiscard]] const GridShape& shape() const { return info().shape; }
  /// Moves the model; device constants of the graph move along. A device without a number is the
  /// calling thread's current one. If it fails, the model stays where it was, whole.
  void to(c10::Device device) {
    const Turn turn = take_turn("to");
    host_->to(with_index(device));
  }

  /// The host; use it only while you hold a turn.
  [[nodiscard]] Host& host() { return *host_; }

  /// The right to use the host. Waits for other threads; lives as long as the work does.
  class Turn;
  /// @throws Error if this thread has a turn already, for instance in a callback of its own run.
  [[nodiscard]] Turn take_turn(const char* function) { return Turn(function, *lock_); }

 private:
  struct Lock {
    std::mutex mutex;
    std::atomic<std::thread::id> owner = std::thread::id();
  };

 public:
  class Turn {
   public:
    Turn(const char* function, Lock& lock) : lock_(lock) {
      if (lock.owner.load() == std::this_thread::get_id()) {
        throw_error(
            "{}: expected a model that is not in use, got a call from inside one of its own runs "
            "(a sink, progress or poll callback); keep what you need and call after the run",
            function);
      }
      lock_.mutex.lock();
      lock_.owner = std::this_thread::get_id();
    }
    ~Turn() {
      lock_.owner = std::thread::id();
      lock_.mutex.unlock();
    }
    Turn(const Turn&) = delete;
    Turn& operator=(const Turn&) = delete;

   private:
    Lock& lock_;
  };

 private:
  std::unique_ptr<Host> host_;
  std::unique_ptr<Lock> lock_ = std::make_unique<Lock>();
};

/// How a run over many prompts goes: batches, steering, and how it is watched.
struct RunOptions {
  int64_t batch_rows = 64;  ///< prompts per batch, at most
  /// Tokens per batch, at most, padding included. 0: what was measured to be fastest.
  int64_t batch_tokens = 0;
  bool share_prefix = true;  ///< compute the common prefix of all prompts once
  Intervention intervention{1};
  std::vector<int64_t> arm_of_prompt = {};  ///< one arm per prompt; empty: arm 0 for all
  std::function<void()> poll = {};          ///< called often; throws Interrupted to stop the run
  std::function<void(int64_t done, int64_t total)> progress = {};
};

/// Runs one step of zeros and returns the shape of the logits. On the "meta" device this computes
/// nothing, but fails if the graph still holds a constant of another device.
CNA_API std::vector<int64_t> dry_run(Model& model, int64_t rows, int64_t fresh, int64_t past);

}  // namespace cna
