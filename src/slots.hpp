/// Where a module's objects keep their tensors. Private to the library.
#pragma once

#include <torch/script.h>

#include <string>
#include <vector>

namespace cna {

/// A place in one of a module's objects, and the tensor that belongs there.
struct Slot {
  c10::intrusive_ptr<c10::ivalue::Object> object;
  size_t number;
  at::Tensor tensor;

  [[nodiscard]] std::string name() const { return object->type()->getAttributeName(number); }
};

/// All tensors of a module as they are; one that two attributes share stands twice.
[[nodiscard]] inline std::vector<Slot> slots_of(const ::torch::jit::Module& module) {
  std::vector<Slot> out;
  for (const ::torch::jit::Module& part : module.modules()) {
    const auto object = part._ivalue();
    for (size_t i = 0; i < object->slots().size(); ++i) {
      const c10::IValue& value = object->getSlot(i);
      if (value.isTensor() && value.toTensor().defined())
        out.push_back({object, i, value.toTensor()});
    }
  }
  return out;
}

inline void put(const std::vector<Slot>& slots) {
  for (const Slot& slot : slots) slot.object->setSlot(slot.number, slot.tensor);
}

}  // namespace cna
