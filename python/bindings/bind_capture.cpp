#include "bindings.hpp"
#include "cna/error.hpp"
#include "cna/torch/capture.hpp"

namespace cna::python {
namespace {

/// Captured work of Python's: what replays it.
class CapturedInPython final : public Captured {
 public:
  explicit CapturedInPython(const py::function& replay) : replay_(kept(replay)) {}
  void replay() override {
    py::gil_scoped_acquire gil;
    (*replay_)();
  }

 private:
  std::shared_ptr<py::function> replay_;
};

void capture_from(const std::string& type, const std::optional<py::function>& capture) {
  const c10::DeviceType device_type = c10::Device(type).type();
  if (!capture) return set_capture(device_type, {});
  set_capture(device_type, [f = kept(*capture)](c10::Device device,
                                                const std::function<void()>& work) {
    py::gil_scoped_acquire gil;
    std::exception_ptr stopped;  // of C++: Python would make another of it on the way
    const py::cpp_function call([&] {
      py::gil_scoped_release release;
      try {
        work();
      } catch (const py::error_already_set&) {
        throw;
      } catch (...) {
        stopped = std::current_exception();
        throw;
      }
    });
    try {
      return std::make_unique<CapturedInPython>(py::cast<py::function>((*f)(device.str(), call)));
    } catch (const py::error_already_set& error) {
      if (stopped) std::rethrow_exception(stopped);
      if (error.matches(PyExc_KeyboardInterrupt)) throw Interrupted("interrupted");
      throw;
    }
  });
}

}  // namespace

void bind_capture(py::module_& m) {
  m.def("set_capture", &capture_from, py::arg("device_type"), py::arg("capture"),
        "How work is captured on devices of this type: capture(device, work) calls work() once and "
        "returns what replays it, a function without arguments; what it raises ends the run. One "
        "capture is under way at a time. None: as torch does it, if it does.");
}

}  // namespace cna::python
