#include "cna/torch/model.hpp"

#include <ATen/ATen.h>

#include "cna/error.hpp"

namespace cna {

std::vector<int64_t> dry_run(Model& model, int64_t rows, int64_t fresh, int64_t past) {
  if (rows < 1 || fresh < 1 || past < 0)  // compiled code checks nothing
    throw_value_error("dry_run: expected rows and new tokens, got {} x {} after {}; ask for some",
                      rows, fresh, past);
  const Model::Turn turn = model.take_turn("dry_run");
  const ModelInfo& info = model.info();
  const auto longs = at::TensorOptions(at::kLong).device(info.device);
  Step step{at::zeros({rows, fresh}, longs),
            at::ones({rows, past + fresh}, longs),
            at::arange(past, past + fresh, longs).unsqueeze(0).repeat({rows, 1}),
            at::full({1}, fresh - 1, longs),
            {}};
  for (size_t i = 0; i < info.cache.size(); ++i) {
    const CacheShape& layer = info.cache[i];
    for (const int64_t dim : {layer.key_dim, layer.value_dim})
      step.cache.push_back(at::zeros({rows, layer.heads, past + fresh, dim},
                                     at::TensorOptions(info.dtype).device(info.cache_device(i))));
  }
  return model.host().logits(step).sizes().vec();
}

}  // namespace cna
