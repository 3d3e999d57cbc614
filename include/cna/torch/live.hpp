/// A host for a model that lives elsewhere, for example a Hugging Face module in Python.
///
/// The owner runs the step (with its own hooks calling `Taps::apply`) and this class gives it the
/// face that the recorder and the generator know. So models that cannot be traced, are quantised,
/// or are spread over devices are recorded and steered by the same code as archives.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <utility>

#include "cna/torch/capture.hpp"
#include "cna/torch/host.hpp"
#include "cna/torch/tap.hpp"

namespace cna {

/// The owner's weights, for rankings by contribution; both or none.
struct LiveWeights {
  std::function<Write(int64_t layer)> write = {};
  std::function<Readout()> readout = {};
};

class LiveHost final : public Host {
 public:
  using Forward = std::function<at::Tensor(const Step&, Taps&)>;  ///< logits [rows, k, vocab]
  using Move = std::function<void(c10::Device)>;
  /// @param may_widen  whether rows may join a pass on its way (found out where it is asked for);
  ///                   false for one that several processes run together.
  /// @param may_capture  whether `forward` writes at the step's places, launches the same kernels
  ///                     whenever shapes are the same, and waits for none of their results.
  LiveHost(ModelInfo info, Forward forward, Move move, LiveWeights weights = {},
           bool may_widen = true, bool may_capture = false)
      : taps_(std::make_shared<Taps>(info.shape.layers)),
        forward_(std::move(forward)),
        move_(std::move(move)),
        weights_(std::move(weights)),
        may_widen_(may_widen),
        may_capture_(may_capture) {
    info_ = std::move(info);
    info_.device = with_index(info_.device);
    for (c10::Device& device : info_.cache_devices) device = with_index(device);
  }

  [[nodiscard]] at::Tensor logits(const Step& step) override { return run(step); }
  void run_to_last_tap(const Step& step) override { run(step); }
  void to(c10::Device device) override {
    try {
      move_(device);
    } catch (...) {
      take_back();
      throw;
    }
    info_.device = device;
    info_.cache_devices.clear();
  }
  [[nodiscard]] Taps& taps() override { return *taps_; }
  [[nodiscard]] bool widens() override {
    if (!widens_) widens_ = may_widen_ && widening_works(*this);
    return *widens_;
  }
  [[nodiscard]] bool captures() override {
    return may_capture_ && info_.has_cache() && info_.layouts.room && !info_.device.is_cpu() &&
           capture_on(info_.device.type());
  }
  [[nodiscard]] Write write(int64_t layer) override {
    return weights_.write ? weights_.write(layer) : Host::write(layer);
  }
  [[nodiscard]] Readout readout() override {
    return weights_.readout ? weights_.readout() : Host::readout();
  }

 private:
  /// A move that failed may have moved a part already; what the owner refused has not moved.
  void take_back() noexcept {
    if (!info_.cache_devices.empty()) return;
    try {
      move_(info_.device);
    } catch (...) {  // the first exception is the one to tell
    }
  }

  at::Tensor run(const Step& step) {
    taps_->stopped = nullptr;
    taps_->begin_step(step.ids);
    try {
      return forward_(step, *taps_);
    } catch (...) {
      // A tap's own exception wins over what the owner made of it on the way.
      if (auto stopped = std::exchange(taps_->stopped, nullptr)) std::rethrow_exception(stopped);
      throw;
    }
  }

  std::shared_ptr<Taps> taps_;
  Forward forward_;
  Move move_;
  LiveWeights weights_;
  bool may_widen_, may_capture_;
  std::optional<bool> widens_;
};

}  // namespace cna
