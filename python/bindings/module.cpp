// The table of contents of cna._core.
#include <torch/csrc/api/include/torch/version.h>

#include "bindings.hpp"
#include "cna/version.hpp"

PYBIND11_MODULE(_core, m) {
  m.doc() = "The C++ part of cna: circuits, interventions and models with taps.";
  pybind11::register_exception_translator([](std::exception_ptr pointer) {
    try {
      if (pointer) std::rethrow_exception(pointer);
    } catch (const c10::Error& error) {  // no torch trace reaches a notebook
      const std::string text = error.what_without_backtrace();
      const std::string line = text.substr(0, text.find('\n'));
      PyErr_SetString(PyExc_RuntimeError, ("cna: expected torch to run, got: " + line +
                                           "; check shapes, device and memory")
                                              .c_str());
    }
  });
  m.attr("version") = std::to_string(CNA_VERSION_MAJOR) + "." + std::to_string(CNA_VERSION_MINOR) +
                      "." + std::to_string(CNA_VERSION_PATCH);
  m.attr("torch_version") = TORCH_VERSION;
  cna::python::bind_circuit(m);
  cna::python::bind_statistics(m);
  cna::python::bind_steering(m);
  cna::python::bind_model(m);
}
