/// Moments on their way between C++ and Python.
#pragma once

#include <ATen/ATen.h>

#include "bindings.hpp"
#include "cna/torch/discover.hpp"

namespace cna::python {

using Places = std::vector<std::pair<int32_t, int32_t>>;

/// Moments cross as a dict of count, mean and m2; tensors as they are, since grids can be large.
inline py::dict moments_dict(const Moments<at::Tensor>& m) {
  py::dict out;
  out["count"] = m.count();
  out["mean"] = m.mean().to(at::kCPU);
  out["m2"] = m.m2().to(at::kCPU);
  return out;
}

inline Moments<at::Tensor> moments_from(const py::dict& values) {
  const auto grid = [&](const char* name) {
    return py::cast<at::Tensor>(values[name]).to(at::kCPU, at::kDouble);
  };
  return Moments<at::Tensor>::of(py::cast<int64_t>(values["count"]), grid("mean"), grid("m2"));
}

inline DeviceContrast contrast_from(const py::dict& positive, const py::dict& negative) {
  return {moments_from(positive), moments_from(negative)};
}

inline std::pair<py::dict, py::dict> contrast_dicts(const DeviceContrast& both) {
  return {moments_dict(both.positive), moments_dict(both.negative)};
}

}  // namespace cna::python
