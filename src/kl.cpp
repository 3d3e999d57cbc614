#include "kl.hpp"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <algorithm>
#include <array>
#include <limits>
#include <numeric>

namespace cna {
namespace {

/// Sum of p * (log_p - other) over n tokens of a vocabulary; 0 * infinity is 0.
double divergence(const float* log_p, const float* p, const float* other, int64_t n) {
  constexpr int64_t lanes = 16, block = 1024;  // sums side by side, kept in double now and then
  double sum = 0;
  for (int64_t first = 0; first < n; first += block) {
    std::array<float, lanes> part{};
    const int64_t end = std::min(first + block, n), whole = first + (end - first) / lanes * lanes;
    for (int64_t i = first; i < whole; i += lanes)
      for (int64_t lane = 0; lane < lanes; ++lane) {
        const float term = (log_p[i + lane] - other[i + lane]) * p[i + lane];
        part[static_cast<size_t>(lane)] += term == term ? term : 0.0F;
      }
    for (int64_t i = whole; i < end; ++i) {
      const float term = (log_p[i] - other[i]) * p[i];
      part[0] += term == term ? term : 0.0F;
    }
    sum += std::accumulate(part.begin(), part.end(), 0.0);
  }
  return sum;
}

bool is_plain(const at::Tensor& t) {
  return t.device().is_cpu() && t.scalar_type() == at::kFloat && t.stride(1) == 1;
}

}  // namespace

Reference Reference::of(const at::Tensor& log_p) { return {log_p, log_p.exp()}; }

at::Tensor kl_of(const Reference& reference, const at::Tensor& log_p) {
  const at::Tensor &ref = reference.log_p, &p = reference.p;
  if (!is_plain(ref) || !is_plain(p) || !is_plain(log_p)) {
    const double infinity = std::numeric_limits<double>::infinity();
    const at::Tensor terms = (ref - log_p).mul_(p).nan_to_num_(0.0, infinity, -infinity);
    return terms.sum(-1).to(at::kDouble).clamp_min(0.0).mean();
  }
  at::Tensor out = at::empty({ref.size(0)}, at::kDouble);
  double* kl = out.mutable_data_ptr<double>();
  at::parallel_for(0, ref.size(0), 1, [&](int64_t begin, int64_t end) {
    for (int64_t token = begin; token < end; ++token)
      // Rounding may leave a divergence of nothing just below 0.
      kl[token] = std::max(
          0.0, divergence(ref.const_data_ptr<float>() + token * ref.stride(0),
                          p.const_data_ptr<float>() + token * p.stride(0),
                          log_p.const_data_ptr<float>() + token * log_p.stride(0), ref.size(1)));
  });
  return out.mean();
}

}  // namespace cna
