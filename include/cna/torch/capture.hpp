/// Captured work: what a step launches on a device, taken down once and replayed as a whole.
///
/// On a GPU a step of a small model takes as long as the host needs to launch its kernels; a replay
/// launches them all at once. Torch knows how that is done for some devices (XPU, since 2.13); for
/// others somebody says it. `cna.load(..., capture=True)` does so for CUDA, from Python.
#pragma once

#include <c10/core/Device.h>

#include <functional>
#include <memory>

#include "cna/export.hpp"

namespace cna {

/// Kernels with the addresses and shapes that they had when they were captured.
class Captured {
 public:
  virtual ~Captured() = default;
  /// Launches them again, on the current stream.
  virtual void replay() = 0;
};

/// Captures what `work` launches on a device; `work` is called once, and its results mean nothing
/// before the first replay. Throws what the device says where the work reads from it or uploads.
using Capture =
    std::function<std::unique_ptr<Captured>(c10::Device device, const std::function<void()>& work)>;

/// How work is captured on devices of this type from now on; empty: as torch does it, if it does.
CNA_API void set_capture(c10::DeviceType type, Capture capture);

/// The way that was set for devices of this type, else torch's; empty where there is none.
[[nodiscard]] CNA_API Capture capture_on(c10::DeviceType type);

}  // namespace cna
