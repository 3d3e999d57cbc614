#include "fake_device.hpp"

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/EmptyTensor.h>
#include <ATen/detail/PrivateUse1HooksInterface.h>
#include <ATen/ops/_reshape_alias_native.h>
#include <ATen/ops/as_strided_native.h>
#include <ATen/ops/resize_native.h>
#include <ATen/ops/unfold_native.h>
#include <ATen/ops/view_native.h>
#include <c10/core/Allocator.h>
#include <c10/core/DeviceGuard.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <sys/mman.h>
#include <torch/library.h>
#include <unistd.h>

#include <mutex>
#include <optional>
#include <utility>
#include <vector>

namespace cna::test {
namespace {

constexpr auto kType = c10::DeviceType::PrivateUse1;

thread_local c10::DeviceIndex current = 0;

bool on_fake(const at::Tensor& t) { return t.defined() && t.device().type() == kType; }

// --- memory and counts ---------------------------------------------------------------------------

/// All blocks of both devices. Each has pages of its own, closed while nobody works on it.
class Memory {
 public:
  void* allocate(size_t bytes, c10::DeviceIndex device) {
    const std::lock_guard lock(mutex_);
    ++counts_.allocations[static_cast<size_t>(device)];
    if (failing_ > 0 && --failing_ == 0) {
      TORCH_CHECK_WITH(OutOfMemoryError, false, "fake out of memory. Tried to allocate ", bytes,
                       " bytes on fake:", static_cast<int>(device));
    }
    const size_t size = whole_pages(bytes);
    void* data = ::mmap(nullptr, size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    TORCH_CHECK(data != MAP_FAILED, "fake: the host has no memory left");
    blocks_[data] = {size, static_cast<int64_t>(bytes), device, 0};
    bytes_[static_cast<size_t>(device)] += static_cast<int64_t>(bytes);
    return data;
  }

  void release(void* data) {
    const std::lock_guard lock(mutex_);
    const auto block = blocks_.find(data);
    bytes_[static_cast<size_t>(block->second.device)] -= block->second.bytes;
    ::munmap(data, block->second.size);
    blocks_.erase(block);
  }

  void open(void* data) {
    const std::lock_guard lock(mutex_);
    const auto block = blocks_.find(data);
    if (block == blocks_.end() || block->second.users++ > 0) return;
    ::mprotect(data, block->second.size, PROT_READ | PROT_WRITE);
  }

  void close(void* data) {
    const std::lock_guard lock(mutex_);
    const auto block = blocks_.find(data);
    if (block == blocks_.end() || --block->second.users > 0) return;
    ::mprotect(data, block->second.size, PROT_NONE);
  }

  void fail(int64_t n) {
    const std::lock_guard lock(mutex_);
    failing_ = n;
  }

  int64_t bytes(c10::DeviceIndex device) {
    const std::lock_guard lock(mutex_);
    return bytes_[static_cast<size_t>(device)];
  }

  template <class Change>
  void count(const Change& change) {
    const std::lock_guard lock(mutex_);
    change(counts_);
  }

  FakeCounts counts() {
    const std::lock_guard lock(mutex_);
    return counts_;
  }

 private:
  struct Block {
    size_t size;
    int64_t bytes;
    c10::DeviceIndex device;
    int users;
  };

  static size_t whole_pages(size_t bytes) {
    const auto page = static_cast<size_t>(::sysconf(_SC_PAGESIZE));
    return (bytes + page - 1) / page * page;
  }

  std::mutex mutex_;
  std::map<void*, Block> blocks_;
  std::array<int64_t, kFakeDevices> bytes_{};
  int64_t failing_ = 0;
  FakeCounts counts_;
};

/// Lives until the process ends, for tensors that do.
Memory& memory() {
  static auto* const all = new Memory;
  return *all;
}

/// Keeps the memory of tensors open while it lives.
class Open {
 public:
  Open() = default;
  Open(const Open&) = delete;
  Open& operator=(const Open&) = delete;
  ~Open() {
    for (void* data : opened_) memory().close(data);
  }
  void add(const at::Tensor& t) {
    void* data = t.storage().mutable_data();
    memory().open(data);
    opened_.push_back(data);
  }

 private:
  std::vector<void*> opened_;
};

struct FakeAllocator final : c10::Allocator {
  c10::DataPtr allocate(size_t bytes) override {
    void* data = bytes == 0 ? nullptr : memory().allocate(bytes, current);
    return {data, data, raw_deleter(), fake(current)};
  }
  c10::DeleterFnPtr raw_deleter() const override {
    return [](void* data) {
      if (data != nullptr) memory().release(data);
    };
  }
  void copy_data(void*, const void*, std::size_t) const override {
    TORCH_CHECK(false, "fake: copies go through copy_");
  }
};

FakeAllocator allocator;

// --- the current device
// ----------------------------------------------------------------------------

struct FakeGuard final : c10::impl::DeviceGuardImplInterface {
  c10::DeviceType type() const override { return kType; }
  c10::Device getDevice() const override { return fake(current); }
  void setDevice(c10::Device device) const override {
    TORCH_CHECK(device.index() < kFakeDevices, "fake: no such device: ", device.str());
    uncheckedSetDevice(device);
  }
  void uncheckedSetDevice(c10::Device device) const noexcept override {
    if (device.has_index()) current = device.index();
  }
  c10::Device exchangeDevice(c10::Device device) const override {
    const c10::Device before = getDevice();
    setDevice(device);
    return before;
  }
  c10::Stream getStream(c10::Device device) const override {
    return c10::Stream(c10::Stream::DEFAULT, device.has_index() ? device : getDevice());
  }
  c10::Stream exchangeStream(c10::Stream stream) const override { return stream; }
  c10::DeviceIndex deviceCount() const noexcept override { return kFakeDevices; }
};

struct FakeHooks final : at::PrivateUse1HooksInterface {
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return true; }
  bool hasPrimaryContext(c10::DeviceIndex) const override { return true; }
  c10::DeviceIndex deviceCount() const override { return kFakeDevices; }
  c10::DeviceIndex getCurrentDevice() const override { return current; }
  const at::Generator& getDefaultGenerator(c10::DeviceIndex) const override {
    static const at::Generator generator =
        at::detail::createCPUGenerator();  // at::manual_seed asks
    return generator;
  }
};

// --- what moves memory
// -------------------------------------------------------------------------------

/// The same bytes under the CPU's name.
at::Tensor on_host(const at::Tensor& t, Open& open) {
  if (!on_fake(t)) return t;
  if (t.numel() == 0) return at::empty(t.sizes(), t.options().device(at::kCPU));
  open.add(t);
  return at::from_blob(t.mutable_data_ptr(), t.sizes(), t.strides(),
                       t.options().device(at::kCPU).requires_grad(false));
}

at::Tensor empty(at::IntArrayRef size, std::optional<at::ScalarType> dtype,
                 std::optional<at::Layout>, std::optional<at::Device> device, std::optional<bool>,
                 std::optional<at::MemoryFormat> format) {
  const c10::DeviceGuard guard(device.value_or(fake(current)));
  return at::detail::empty_generic(size, &allocator,
                                   c10::DispatchKeySet(c10::DispatchKey::PrivateUse1),
                                   c10::dtype_or_default(dtype), format);
}

at::Tensor empty_strided(at::IntArrayRef size, at::IntArrayRef stride,
                         std::optional<at::ScalarType> dtype, std::optional<at::Layout>,
                         std::optional<at::Device> device, std::optional<bool>) {
  const c10::DeviceGuard guard(device.value_or(fake(current)));
  return at::detail::empty_strided_generic(size, stride, &allocator,
                                           c10::DispatchKeySet(c10::DispatchKey::PrivateUse1),
                                           c10::dtype_or_default(dtype));
}

const at::Tensor& resize(const at::Tensor& self, at::IntArrayRef size,
                         std::optional<at::MemoryFormat> format) {
  const c10::DeviceGuard guard(self.device());
  TORCH_CHECK(self.numel() == 0, "fake: only empty tensors are resized");
  return at::native::resize_(self, size, format);
}

at::Tensor copy_from(const at::Tensor& from, const at::Tensor& to, bool non_blocking) {
  const auto bytes = static_cast<int64_t>(to.nbytes());
  memory().count([&](FakeCounts& counts) {
    if (on_fake(from) && on_fake(to)) ++counts.kernels, ++counts.by_name["aten::copy_"];
    if (!on_fake(from)) ++counts.uploads, counts.bytes_uploaded += bytes;
    if (!on_fake(to)) counts.reads += !non_blocking, counts.bytes_read += bytes;
  });
  Open open;
  if (to.numel() > 0) on_host(to, open).copy_(on_host(from, open));
  return to;
}

at::Scalar local_scalar(const at::Tensor& t) {
  memory().count([&](FakeCounts& counts) {
    ++counts.reads, counts.bytes_read += static_cast<int64_t>(t.nbytes());
  });
  Open open;
  return on_host(t, open).item();
}

// --- every other operator
// ------------------------------------------------------------------------------

/// One call of an operator on the CPU's kernel.
class Call {
 public:
  Call(const c10::OperatorHandle& op, ::torch::jit::Stack& stack)
      : schema_(op.schema()), stack_(stack) {
    const size_t first = stack.size() - schema_.arguments().size();
    for (size_t i = 0; i < schema_.arguments().size(); ++i) {
      const auto* alias = schema_.arguments()[i].alias_info();
      writes_ = alias != nullptr && alias->isWrite();
      indices_ = schema_.arguments()[i].name() == "indices" &&
                 (schema_.name().starts_with("aten::index") ||
                  schema_.name().starts_with("aten::_index_put"));
      c10::IValue& value = stack[first + i];
      if (value.isTensor()) {
        value = host(value.toTensor());
      } else if (value.isList()) {  // of tensors, or of tensors and nothing
        value = each_tensor(value.toList(), [&](const at::Tensor& t) { return host(t); });
      } else if (value.isDevice()) {
        see(value.toDevice().has_index() ? value.toDevice() : fake(current));
        value = c10::Device(c10::kCPU);
      }
    }
  }

  /// Takes the results to the device; what was written in place is the caller's own tensor.
  void finish() {
    for (const Written& each : written_) {
      if (each.host.sizes() == each.original.sizes()) continue;  // its bytes are the original's
      each.original.resize_(each.host.sizes());
      on_host(each.original, open_).copy_(each.host);
    }
    const size_t first = stack_.size() - schema_.returns().size();
    for (size_t i = 0; i < schema_.returns().size(); ++i) {
      const auto* alias = schema_.returns()[i].alias_info();
      TORCH_CHECK(alias == nullptr || alias->isWrite(), "fake: ", schema_.name(),
                  " makes a view and needs a kernel of its own");
      c10::IValue& value = stack_[first + i];
      if (value.isTensor()) {
        value = device(value.toTensor());
      } else if (value.isList()) {
        value = each_tensor(value.toList(), [&](const at::Tensor& t) { return device(t); });
      }
    }
  }

 private:
  struct Written {
    at::Tensor original, host;
  };

  template <class Change>
  static c10::IValue each_tensor(const c10::List<c10::IValue>& list, const Change& change) {
    c10::impl::GenericList out(list.elementType());
    for (const c10::IValue& value : list.vec())
      out.push_back(value.isTensor() ? c10::IValue(change(value.toTensor())) : value);
    return out;
  }

  void see(c10::Device device) {
    TORCH_CHECK(!device_ || *device_ == device,
                "Expected all tensors to be on the same device, but found at least two devices, ",
                device_->str(), " and ", device.str(), " (", schema_.name(), ")");
    device_ = device;
  }

  at::Tensor host(const at::Tensor& t) {
    if (!t.defined()) return t;
    if (t.is_cpu() && t.dim() == 0 && !writes_) return t;
    if (t.is_cpu() && indices_) {  // CUDA takes the indices of index() there
      memory().count([&](FakeCounts& counts) {
        ++counts.uploads, counts.bytes_uploaded += static_cast<int64_t>(t.nbytes());
      });
      return t;
    }
    see(t.device());
    const at::Tensor out = on_host(t, open_);
    if (writes_) written_.push_back({t, out});
    return out;
  }

  at::Tensor device(const at::Tensor& t) {
    if (!t.defined()) return t;
    for (const Written& each : written_)
      if (each.host.is_same(t)) return each.original;
    const auto options = t.options().device(device_.value_or(fake(current)));
    at::Tensor out = t.is_non_overlapping_and_dense()
                         ? at::empty_strided(t.sizes(), t.strides(), options)
                         : at::empty(t.sizes(), options);
    if (t.numel() > 0) on_host(out, open_).copy_(t);
    return out;
  }

  const c10::FunctionSchema& schema_;
  ::torch::jit::Stack& stack_;
  std::optional<c10::Device> device_;
  std::vector<Written> written_;
  bool writes_ = false, indices_ = false;
  Open open_;
};

void run_on_cpu(const c10::OperatorHandle& op, ::torch::jit::Stack* stack) {
  Call call(op, *stack);
  memory().count(
      [&](FakeCounts& counts) { ++counts.kernels, ++counts.by_name[op.schema().name()]; });
  op.redispatchBoxed(c10::DispatchKeySet(c10::DispatchKey::CPU), stack);
  call.finish();
}

const bool named = [] {
  c10::register_privateuse1_backend("fake");
  c10::SetAllocator(kType, &allocator);
  at::RegisterPrivateUse1HooksInterface(new FakeHooks);
  return true;
}();

C10_REGISTER_GUARD_IMPL(PrivateUse1, FakeGuard)

}  // namespace

FakeCounts operator-(FakeCounts after, const FakeCounts& before) {
  after.kernels -= before.kernels, after.reads -= before.reads, after.uploads -= before.uploads;
  after.bytes_read -= before.bytes_read, after.bytes_uploaded -= before.bytes_uploaded;
  for (size_t i = 0; i < after.allocations.size(); ++i)
    after.allocations[i] -= before.allocations[i];
  for (const auto& [name, count] : before.by_name) after.by_name[name] -= count;
  return after;
}

FakeCounts fake_counts() { return memory().counts(); }
void set_current_fake(c10::DeviceIndex index) { FakeGuard().setDevice(fake(index)); }
void fail_fake_allocation(int64_t n) { memory().fail(n); }
int64_t fake_bytes(c10::DeviceIndex index) { return memory().bytes(index); }

TORCH_LIBRARY_IMPL(aten, PrivateUse1, m) {
  m.impl("empty.memory_format", &empty);
  m.impl("empty_strided", &empty_strided);
  m.impl("as_strided", &at::native::as_strided_tensorimpl);
  m.impl("view", &at::native::view);
  m.impl("_reshape_alias", &at::native::_reshape_alias);
  m.impl("unfold", &at::native::unfold);
  m.impl("resize_", &resize);
  m.impl("_copy_from", &copy_from);
  m.impl("_local_scalar_dense", &local_scalar);
}

TORCH_LIBRARY_IMPL(_, PrivateUse1, m) {
  m.fallback(::torch::CppFunction::makeFromBoxedFunction<&run_on_cpu>());
}

}  // namespace cna::test
