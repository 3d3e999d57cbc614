/// What a TorchScript graph holds of a model's taps: an object that the interpreter can carry.
#pragma once

#include <torch/custom_class.h>

#include <memory>

#include "cna/torch/tap.hpp"

namespace cna {

struct TapsHandle : ::torch::CustomClassHolder {
  explicit TapsHandle(int64_t layers = 0) : taps(std::make_shared<Taps>(layers)) {}

  std::shared_ptr<Taps> taps;
};

}  // namespace cna
