/// Numbers of a device on their way to the host. Private to the library.
#pragma once

#include <ATen/ATen.h>
#include <c10/core/Event.h>
#include <c10/core/impl/VirtualGuardImpl.h>

#include <optional>
#include <utility>
#include <vector>

namespace cna {

/// Starts to copy int64 numbers when it is made; what is launched behind it does not delay them.
class LateRead {
 public:
  explicit LateRead(const at::Tensor& from) {
    if (!may_wait_for(from.device())) {
      host_ = from.to(at::kCPU).contiguous();
      return;
    }
    host_ = at::empty(from.sizes(), from.options().device(at::kCPU).pinned_memory(true));
    host_.copy_(from, /*non_blocking=*/true);
    const c10::impl::VirtualGuardImpl guard(from.device().type());
    event_.emplace(from.device().type());
    event_->record(guard.getStream(from.device()));
  }

  /// Whether a copy can be waited for alone; else it is made at once.
  [[nodiscard]] static bool may_wait_for(c10::Device device) {
    return device.is_cuda() || device.is_xpu() || device.is_privateuseone();
  }

  /// Waits for the numbers.
  [[nodiscard]] std::vector<int64_t> take() {
    if (event_) event_->synchronize();
    const int64_t* numbers = host_.const_data_ptr<int64_t>();
    std::vector<int64_t> all(numbers, numbers + host_.numel());
    if (!kept_) return all;
    std::vector<int64_t> out;
    for (const int64_t place : *kept_) out.push_back(all[static_cast<size_t>(place)]);
    return out;
  }

  /// Of the numbers, only those at these places are wanted, in this order.
  void keep(std::vector<int64_t> places) { kept_ = std::move(places); }

 private:
  at::Tensor host_;
  std::optional<c10::Event> event_;
  std::optional<std::vector<int64_t>> kept_;
};

}  // namespace cna
