// The table of contents of cna._core.
#include <torch/csrc/api/include/torch/version.h>

#include "bindings.hpp"
#include "cna/error.hpp"
#include "cna/version.hpp"

PYBIND11_MODULE(_core, m) {
  m.doc() = "The C++ part of cna: circuits, interventions and models with taps.";
  pybind11::register_exception_translator([](std::exception_ptr pointer) {
    try {
      if (pointer) std::rethrow_exception(pointer);
    } catch (const cna::ValueError& error) {
      PyErr_SetString(PyExc_ValueError, error.what());
    } catch (const cna::IndexError& error) {
      PyErr_SetString(PyExc_IndexError, error.what());
    } catch (const cna::FileNotFound& error) {
      PyErr_SetString(PyExc_FileNotFoundError, error.what());
    } catch (const cna::OutOfMemory& error) {
      PyErr_SetString(PyExc_MemoryError, error.what());
    } catch (const cna::Interrupted& error) {
      PyErr_SetString(PyExc_KeyboardInterrupt, error.what());
    } catch (const c10::Error& error) {  // no torch trace reaches a notebook
      const std::string text = error.what_without_backtrace();
      const std::string line = text.substr(0, text.find('\n'));
      PyErr_SetString(PyExc_RuntimeError, ("cna: expected torch to run, got: " + line +
                                           "; check shapes, device and memory")
                                              .c_str());
    }
  });
  pybind11::register_exception<cna::NonFinite>(m, "NonFiniteError", PyExc_RuntimeError).doc() =
      "A model's numbers overflowed, so that nothing can be read off them.";
  m.attr("version") = std::string(cna::version);
  m.attr("torch_version") = TORCH_VERSION;
  cna::python::bind_circuit(m);
  cna::python::bind_statistics(m);
  cna::python::bind_steering(m);
  auto model = cna::python::bind_host(m);
  cna::python::bind_capture(m);
  cna::python::bind_record(m, model);
  cna::python::bind_discover(m, model);
  cna::python::bind_gate(m);
  cna::python::bind_generate(m, model);
}
