#include "cna/torch/steering_vector.hpp"

#include <ATen/ATen.h>

#include "cna/error.hpp"
#include "cna/torch/discover.hpp"

namespace cna {

SteeringVectors steering_vectors(Model& model, std::span<const TokenIds> positive,
                                 std::span<const TokenIds> negative, Site site,
                                 const RunOptions& options) {
  const DeviceContrast both = device_contrast(model, positive, negative, options, site);
  return {site, mean_difference(both.positive, both.negative).to(at::kCPU)};
}

Intervention SteeringVectors::add(std::span<const int64_t> layers,
                                  std::span<const double> coefficients) const {
  Intervention out(static_cast<int64_t>(coefficients.size()));
  for (const int64_t layer : layers) {
    if (layer < 0 || layer >= vectors.size(0)) {
      throw_index_error("SteeringVectors::add: expected layers from 0 to {}, got {}; count from 0",
                        vectors.size(0) - 1, layer);
    }
    out = out.then(Intervention::add(site, layer, vectors[layer], coefficients));
  }
  return out;
}

}  // namespace cna
