/// A second device for tests, on machines that have none: "fake:0" and "fake:1", torch's
/// PrivateUse1.
///
///   memory   pages of its own, open only to the kernel or copy that runs on them: any other read
///   or
///            write of them, by the host for instance, is a segmentation fault
///   kernels  the CPU's, on the same bytes, behind one boxed fallback that counts them and refuses
///            tensors of two devices, as CUDA does; scalars of the host (no dimension) are let
///            through
///   copies   counted by direction. A read is what makes the host wait for numbers of the device: a
///            copy to the host that is not marked non-blocking, a scalar, or an event. What a
///            non-blocking copy brings is not there before the host has waited for an event
///   capture  of torch's own interface: takes down the kernels that a thread launches, refuses
///   reads
///            and uploads among them, and replays them on the memory that they had
///
/// Each thread has a current device, 0 at first, as CUDA has it: "fake" without a number is that
/// one.
#pragma once

#include <ATen/core/Tensor.h>

#include <array>
#include <cstdint>
#include <map>
#include <string>

namespace cna::test {

inline constexpr c10::DeviceIndex kFakeDevices = 2;

[[nodiscard]] inline c10::Device fake(c10::DeviceIndex index) {
  return {c10::DeviceType::PrivateUse1, index};
}

/// What happened on both devices, in all threads.
struct FakeCounts {
  int64_t kernels = 0;   ///< that the host launched; copies from device to device too
  int64_t replays = 0;   ///< of captured kernels, one launch each
  int64_t replayed = 0;  ///< kernels in them
  int64_t reads = 0;
  int64_t late = 0;  ///< of the reads, those that waited while later kernels were launched already
  int64_t uploads = 0;
  int64_t held = 0;  ///< of the uploads, those that made the host wait for what runs there
  int64_t bytes_read = 0;
  int64_t bytes_uploaded = 0;
  std::array<int64_t, kFakeDevices> allocations{};
  std::map<std::string, int64_t> by_name;  ///< kernels, by operator

  friend FakeCounts operator-(FakeCounts after, const FakeCounts& before);
};

/// Counts since the process began.
[[nodiscard]] FakeCounts fake_counts();

/// Counts of what `call` does.
template <class Call>
[[nodiscard]] FakeCounts counted(Call&& call) {
  const FakeCounts before = fake_counts();
  call();
  return fake_counts() - before;
}

/// Sets the calling thread's current device.
void set_current_fake(c10::DeviceIndex index);

/// The n-th allocation from now on, of any thread, fails as a full device does; 0: none. Returns
/// how many were left to the one asked for before; 0: it has failed, or none was.
int64_t fail_fake_allocation(int64_t n);

/// Bytes of live tensors on a device.
[[nodiscard]] int64_t fake_bytes(c10::DeviceIndex index);

}  // namespace cna::test
