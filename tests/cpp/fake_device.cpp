#include "fake_device.hpp"

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/EmptyTensor.h>
#if __has_include(<ATen/core/GraphImplInterface.h>)
#include <ATen/core/GraphImplInterface.h>
#define CNA_TORCH_GRAPHS 1
#endif
#include <ATen/detail/PrivateUse1HooksInterface.h>
#include <ATen/ops/_reshape_alias_native.h>
#include <ATen/ops/as_strided_native.h>
#include <ATen/ops/resize_native.h>
#include <ATen/ops/unfold_native.h>
#include <ATen/ops/view_native.h>
#include <c10/core/Allocator.h>
#include <c10/core/CPUAllocator.h>
#include <c10/core/DeviceGuard.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <sys/mman.h>
#include <torch/library.h>
#include <unistd.h>

#include <mutex>
#include <optional>
#include <utility>
#include <vector>

#include "cna/torch/capture.hpp"

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

  int64_t fail(int64_t n) {
    const std::lock_guard lock(mutex_);
    return std::exchange(failing_, n);
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

/// Keeps tensors, and their memory open, while it lives: the interpreter gives its last one away.
class Open {
 public:
  Open() = default;
  Open(const Open&) = delete;
  Open& operator=(const Open&) = delete;
  ~Open() {
    for (const at::Tensor& t : opened_) memory().close(t.storage().mutable_data());
  }
  void add(const at::Tensor& t) {
    memory().open(t.storage().mutable_data());
    opened_.push_back(t);
  }

 private:
  std::vector<at::Tensor> opened_;
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

// --- what the device does behind the host's back -------------------------------------------------

/// Copies of this thread that are under way: the host has asked for them and not waited.
thread_local std::vector<std::pair<at::Tensor, at::Tensor>> under_way;  // from host bytes, to

/// All copies that are under way arrive.
void arrive() {
  for (const auto& [bytes, to] : under_way) to.copy_(bytes);
  under_way.clear();
}

/// Launches so far.
int64_t launched() {
  const FakeCounts counts = memory().counts();
  return counts.kernels + counts.replays;
}

struct Recording;
thread_local Recording* recording = nullptr;  // of this thread's capture

void refuse_while_capturing(const char* what) {
  TORCH_CHECK(recording == nullptr,
              "fake: operation not permitted when stream is capturing: ", what);
}

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
  c10::Stream getStreamFromGlobalPool(c10::Device device, bool) const override {
    return getStream(device);
  }
  void synchronizeDevice(c10::DeviceIndex) const override { arrive(); }
  void record(void** event, const c10::Stream&, c10::DeviceIndex, c10::EventFlag) const override {
    if (*event == nullptr) *event = new int64_t;
    *static_cast<int64_t*>(*event) = launched();
  }
  void synchronizeEvent(void* event) const override {
    memory().count([&](FakeCounts& counts) {
      ++counts.reads,
          counts.late += counts.kernels + counts.replays > *static_cast<int64_t*>(event);
    });
    arrive();
  }
  void destroyEvent(void* event, c10::DeviceIndex) const noexcept override {
    delete static_cast<int64_t*>(event);
  }
  c10::DeviceIndex deviceCount() const noexcept override { return kFakeDevices; }
};

struct FakeHooks final : at::PrivateUse1HooksInterface {
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return true; }
  bool hasPrimaryContext(c10::DeviceIndex) const override { return true; }
  c10::DeviceIndex deviceCount() const override { return kFakeDevices; }
  c10::DeviceIndex getCurrentDevice() const override { return current; }
  c10::Allocator* getPinnedMemoryAllocator() const override { return c10::GetCPUAllocator(); }
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

void note_copy(const at::Tensor& from, const at::Tensor& to);

at::Tensor copy_from(const at::Tensor& from, const at::Tensor& to, bool non_blocking) {
  const auto bytes = static_cast<int64_t>(to.nbytes());
  memory().count([&](FakeCounts& counts) {
    if (on_fake(from) && on_fake(to)) ++counts.kernels, ++counts.by_name["aten::copy_"];
    if (!on_fake(from))
      ++counts.uploads, counts.held += !non_blocking, counts.bytes_uploaded += bytes;
    if (!on_fake(to)) counts.reads += !non_blocking, counts.bytes_read += bytes;
  });
  Open open;
  if (!on_fake(from)) refuse_while_capturing("upload");
  if (!on_fake(to)) refuse_while_capturing("read");
  if (to.numel() == 0) return to;
  if (on_fake(from) && on_fake(to)) note_copy(from, to);
  if (!on_fake(to) && non_blocking) {
    // The device copies now, and tells nobody: until the host has waited, other numbers are there.
    under_way.emplace_back(on_host(from, open).clone(), to);
    to.fill_(-7);
  } else {
    on_host(to, open).copy_(on_host(from, open));
  }
  return to;
}

at::Scalar local_scalar(const at::Tensor& t) {
  refuse_while_capturing("scalar");
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
      refuse_while_capturing("upload of an index");
      memory().count([&](FakeCounts& counts) {
        ++counts.uploads, ++counts.held;
        counts.bytes_uploaded += static_cast<int64_t>(t.nbytes());
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

// --- capture
// ----------------------------------------------------------------------------------------

/// Kernels of a thread in their order, with the tensors that they read and wrote.
struct Recording {
  struct Kernel {
    std::optional<c10::OperatorHandle> op;  // none: a copy, of from and to
    ::torch::jit::Stack arguments, results;
  };
  std::vector<Kernel> kernels;
};

void note_copy(const at::Tensor& from, const at::Tensor& to) {
  if (recording != nullptr) recording->kernels.push_back({std::nullopt, {from}, {to}});
}

void on_cpu(const c10::OperatorHandle& op, ::torch::jit::Stack& stack) {
  Call call(op, stack);
  op.redispatchBoxed(c10::DispatchKeySet(c10::DispatchKey::CPU), &stack);
  call.finish();
}

/// While a thread captures, kernels run as well: on a real device they do not, and nobody may count
/// on what they give before the first replay.
void run_on_cpu(const c10::OperatorHandle& op, ::torch::jit::Stack* stack) {
  memory().count(
      [&](FakeCounts& counts) { ++counts.kernels, ++counts.by_name[op.schema().name()]; });
  const size_t taken = op.schema().arguments().size(), given = op.schema().returns().size();
  Recording::Kernel kernel{op, {}, {}};
  if (recording != nullptr)
    kernel.arguments.assign(stack->end() - static_cast<std::ptrdiff_t>(taken), stack->end());
  on_cpu(op, *stack);
  if (recording == nullptr) return;
  kernel.results.assign(stack->end() - static_cast<std::ptrdiff_t>(given), stack->end());
  recording->kernels.push_back(std::move(kernel));
}

/// Puts the bytes of a result where the captured kernel put its own.
void overwrite(const c10::IValue& kept, const c10::IValue& fresh) {
  if (kept.isTensorList()) {
    const auto to = kept.toTensorList(), from = fresh.toTensorList();
    for (size_t i = 0; i < to.size(); ++i)
      overwrite(c10::IValue(to.get(i)), c10::IValue(from.get(i)));
  }
  if (!kept.isTensor() || !kept.toTensor().defined()) return;
  const at::Tensor &to = kept.toTensor(), &from = fresh.toTensor();
  if (to.is_same(from) || to.numel() == 0) return;
  Open open;
  on_host(to, open).copy_(on_host(from, open));
}

/// Takes down what its thread launches between begin and end, and replays it.
struct FakeGraph {
  void begin() {
    TORCH_CHECK(recording == nullptr, "fake: this thread captures already");
    recording = &recording_;
  }
  static void end() { recording = nullptr; }
  void run() const {
    refuse_while_capturing("replay");
    memory().count([&](FakeCounts& counts) {
      ++counts.replays, counts.replayed += static_cast<int64_t>(recording_.kernels.size());
    });
    for (const Recording::Kernel& kernel : recording_.kernels) {
      ::torch::jit::Stack stack = kernel.arguments;
      if (!kernel.op) {
        overwrite(kernel.results[0], stack[0]);
        continue;
      }
      on_cpu(*kernel.op, stack);
      for (size_t i = 0; i < stack.size(); ++i) overwrite(kernel.results[i], stack[i]);
    }
  }
  void forget() { recording_.kernels.clear(); }

 private:
  Recording recording_;
};

#ifdef CNA_TORCH_GRAPHS
struct TorchGraph final : at::GraphImplInterface {
  explicit TorchGraph(const at::GraphImplArgs&) {}
  void capture_begin(c10::MempoolId_t, at::GraphCaptureMode) override { graph_.begin(); }
  void capture_end() override { FakeGraph::end(); }
  void instantiate() override {}
  void replay() override { graph_.run(); }
  void reset() override { graph_.forget(); }
  c10::MempoolId_t pool() const override { return {0, 0}; }
  void enable_debug_mode() override {}
  void debug_dump(const std::string&) override {}

 private:
  FakeGraph graph_;
};
#else
struct CapturedByFake final : Captured {
  void replay() override { graph.run(); }
  FakeGraph graph;
};

/// Torch before 2.13 has no interface of its own.
const bool captures = [] {
  set_capture(kType, [](c10::Device, const std::function<void()>& work) {
    auto out = std::make_unique<CapturedByFake>();
    out->graph.begin();
    try {
      work();
    } catch (...) {
      FakeGraph::end();
      throw;
    }
    FakeGraph::end();
    return out;
  });
  return true;
}();
#endif

}  // namespace
}  // namespace cna::test

#ifdef CNA_TORCH_GRAPHS
namespace at {
REGISTER_GRAPH_IMPL(FAKE, ::cna::test::TorchGraph)
}  // namespace at
#endif

namespace cna::test {
namespace {

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
  after.held -= before.held;
  after.replays -= before.replays, after.replayed -= before.replayed, after.late -= before.late;
  after.bytes_read -= before.bytes_read, after.bytes_uploaded -= before.bytes_uploaded;
  for (size_t i = 0; i < after.allocations.size(); ++i)
    after.allocations[i] -= before.allocations[i];
  for (const auto& [name, count] : before.by_name) after.by_name[name] -= count;
  return after;
}

FakeCounts fake_counts() { return memory().counts(); }
void set_current_fake(c10::DeviceIndex index) { FakeGuard().setDevice(fake(index)); }
int64_t fail_fake_allocation(int64_t n) { return memory().fail(n); }
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
