#include <chrono>

#include "bindings.hpp"
#include "cna/error.hpp"

namespace cna::python {
namespace {

/// Lets Python handle Ctrl-C, at most every 50 ms: taps ask far more often.
std::function<void()> signal_poll() {
  return [next = std::chrono::steady_clock::now()]() mutable {
    const auto now = std::chrono::steady_clock::now();
    if (now < next) return;
    next = now + std::chrono::milliseconds(50);
    py::gil_scoped_acquire gil;
    if (PyErr_CheckSignals() != 0) throw py::error_already_set();
  };
}

}  // namespace

RunOptions run_options(const py::kwargs& keywords) {
  RunOptions out;
  out.poll = signal_poll();
  for (const auto& [key, value] : keywords) {
    const auto name = py::cast<std::string>(key);
    if (name == "intervention") {
      out.intervention = py::cast<Intervention>(value);
    } else if (name == "arms") {
      out.arm_of_prompt = py::cast<std::vector<int64_t>>(value);
    } else if (name == "batch_rows") {
      out.batch_rows = py::cast<int64_t>(value);
    } else if (name == "batch_tokens") {
      out.batch_tokens = py::cast<int64_t>(value);
    } else if (name == "share_prefix") {
      out.share_prefix = py::cast<bool>(value);
    } else if (name == "progress") {
      if (value.is_none()) continue;
      // The caller keeps `progress` alive for the length of the call.
      out.progress = [handle = value.ptr()](int64_t done, int64_t total) {
        py::gil_scoped_acquire gil;
        py::reinterpret_borrow<py::object>(handle)(done, total);
      };
    } else {
      throw py::type_error(
          "run: expected intervention, arms, batch_rows, batch_tokens, "
          "share_prefix or progress, got '" +
          name + "'; check the spelling");
    }
  }
  return out;
}

}  // namespace cna::python
