#include <c10/core/impl/DeviceGuardImplInterface.h>

#include "cna/torch/host.hpp"

namespace cna {

c10::Device with_index(c10::Device device) {
  if (device.is_cpu()) return c10::Device(c10::kCPU);  // there is one, whatever its number
  if (device.has_index() || !c10::impl::hasDeviceGuardImpl(device.type())) return device;
  return c10::impl::getDeviceGuardImpl(device.type())->getDevice();
}

}  // namespace cna
