#include "cna/torch/capture.hpp"

#include <c10/core/DeviceGuard.h>
#include <c10/core/impl/VirtualGuardImpl.h>
#if __has_include(<ATen/core/GraphImplInterface.h>)  // torch 2.13 and later
#include <ATen/core/GraphImplInterface.h>
#define CNA_TORCH_CAPTURES 1
#endif

#include <map>
#include <mutex>
#include <utility>

namespace cna {
namespace {

std::mutex mutex;

/// Lives until the process ends: what Python gave may not be let go behind its end.
std::map<c10::DeviceType, Capture>& ways() {
  static auto* const all = new std::map<c10::DeviceType, Capture>;
  return *all;
}

#ifdef CNA_TORCH_CAPTURES
class OfTorch final : public Captured {
 public:
  OfTorch(std::unique_ptr<at::GraphImplInterface> graph, c10::Device device)
      : graph_(std::move(graph)), device_(device) {}
  void replay() override {
    const c10::DeviceGuard guard(device_);
    graph_->replay();
  }

 private:
  std::unique_ptr<at::GraphImplInterface> graph_;
  c10::Device device_;
};

/// While it lives, the thread launches on a stream of its own: the usual one is not captured.
class SideStream {
 public:
  explicit SideStream(c10::Device device)
      : guard_(device.type()), before_(guard_.getStream(device)) {
    guard_.synchronizeDevice(device.index());
    guard_.exchangeStream(guard_.getStreamFromGlobalPool(device));
  }
  ~SideStream() { guard_.exchangeStream(before_); }
  SideStream(const SideStream&) = delete;
  SideStream& operator=(const SideStream&) = delete;

 private:
  c10::impl::VirtualGuardImpl guard_;
  c10::Stream before_;
};

std::unique_ptr<Captured> capture_by_torch(c10::Device device, const std::function<void()>& work) {
  const c10::DeviceGuard guard(device);
  const SideStream side(device);
  auto graph = at::create_graph_impl(device.type());
  graph->capture_begin();
  try {
    work();
  } catch (...) {
    try {
      graph->capture_end();
    } catch (...) {  // of the capture that failed: the first exception is the one to tell
    }
    throw;
  }
  graph->capture_end();
  return std::make_unique<OfTorch>(std::move(graph), device);
}
#endif

}  // namespace

void set_capture(c10::DeviceType type, Capture capture) {
  const std::lock_guard lock(mutex);
  ways()[type] = std::move(capture);
}

Capture capture_on(c10::DeviceType type) {
  {
    const std::lock_guard lock(mutex);
    if (const auto found = ways().find(type); found != ways().end() && found->second)
      return found->second;
  }
#ifdef CNA_TORCH_CAPTURES
  if (at::has_graph_impl(type)) return capture_by_torch;
#endif
  return {};
}

}  // namespace cna
