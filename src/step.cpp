#include "cna/torch/step.hpp"

#include <ATen/ATen.h>

namespace cna {

at::Tensor Step::write_places() const {
  if (places.defined()) return places;
  const int64_t total = mask.size(1);
  return at::arange(total - ids.size(1), total, ids.options());
}

}  // namespace cna
