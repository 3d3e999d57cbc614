#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <torch/library.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cmath>
#include <utility>

#include "cpu_loops.hpp"

namespace cna {
namespace {

/// How many threads loops of our own run on: those of torch, where it was built as this library.
int64_t loop_threads() {
  std::atomic<int64_t> parts = 0;
  at::parallel_for(0, at::get_num_threads(), 1, [&](int64_t, int64_t) { ++parts; });
  return parts;
}

CNA_FOR_EACH_CPU float sum_of_squares(const float* x, int64_t n) {
  constexpr int64_t lanes = 16;  // sums side by side, for vector units
  std::array<float, lanes> part{};
  int64_t i = 0;
  for (; i + lanes <= n; i += lanes)
    for (int64_t lane = 0; lane < lanes; ++lane) part[lane] += x[i + lane] * x[i + lane];
  float sum = 0;
  for (; i < n; ++i) sum += x[i] * x[i];
  for (const float p : part) sum += p;
  return sum;
}

/// y = gain * (x / sqrt(mean(x^2) + eps)) of one row.
CNA_FOR_EACH_CPU void norm_row(const float* CNA_APART a, const float* CNA_APART g,
                               float* CNA_APART y, int64_t n, float eps) {
  const float scale = 1.0F / std::sqrt(sum_of_squares(a, n) / static_cast<float>(n) + eps);
  for (int64_t i = 0; i < n; ++i) y[i] = g[i] * (a[i] * scale);
}

/// gain * (x / sqrt(mean(x^2) + eps)) over the last dimension.
at::Tensor rms_norm(const at::Tensor& x, const at::Tensor& gain, double eps) {
  const int64_t n = x.size(-1);
  if (x.scalar_type() != at::kFloat || gain.scalar_type() != at::kFloat || !x.device().is_cpu() ||
      gain.dim() != 1 || gain.size(0) != n || n == 0)
    return gain * (x * at::rsqrt(x.pow(2).mean(-1, true) + eps));
  const at::Tensor in = x.contiguous(), by = gain.contiguous();
  at::Tensor out = at::empty_like(in);
  const float *from = in.const_data_ptr<float>(), *g = by.const_data_ptr<float>();
  float* to = out.mutable_data_ptr<float>();
  const auto small = static_cast<float>(eps);
  at::parallel_for(0, in.numel() / n, rows_a_thread(n), [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) norm_row(from + row * n, g, to + row * n, n, small);
  });
  return out;
}

/// One vector of 2 * half features, turned by its angles.
CNA_FOR_EACH_CPU void turn(const float* CNA_APART a, const float* CNA_APART c,
                           const float* CNA_APART s, float* CNA_APART y, int64_t half) {
  for (int64_t j = 0; j < half; ++j) {
    y[j] = a[j] * c[j] + -a[j + half] * s[j];
    y[j + half] = a[j + half] * c[j + half] + a[j] * s[j + half];
  }
}

at::Tensor rotated(const at::Tensor& x) {
  const int64_t half = x.size(-1) / 2;
  return at::cat({x.narrow(-1, half, x.size(-1) - half).neg(), x.narrow(-1, 0, half)}, -1);
}

bool is_plain(const at::Tensor& x) {
  return x.scalar_type() == at::kFloat && x.device().is_cpu() && x.dim() == 4 && x.stride(3) == 1;
}

/// Whether `turn_all` takes x and its angles, [rows or 1, 1, tokens, dim].
bool can_turn(const at::Tensor& x, const at::Tensor& cos, const at::Tensor& sin) {
  const auto fits = [&](const at::Tensor& angle) {
    return is_plain(angle) && angle.size(3) == x.size(3) && angle.size(2) == x.size(2) &&
           angle.size(1) == 1 && (angle.size(0) == x.size(0) || angle.size(0) == 1);
  };
  return is_plain(x) && x.size(3) % 2 == 0 && x.numel() > 0 && fits(cos) && fits(sin);
}

/// Calls `one(from, row, token, to)` for each vector of x [rows, heads, tokens, dim] and its place
/// in `out` [rows, heads, any, dim], where token t stands at `place[t]`; null: at t.
template <class One>
void each_vector(const at::Tensor& x, const at::Tensor& out, const int64_t* place, const One& one) {
  const int64_t heads = x.size(1), tokens = x.size(2);
  const float* from = x.const_data_ptr<float>();
  float* to = out.mutable_data_ptr<float>();
  const int64_t grain = rows_a_thread(heads * x.size(3));
  at::parallel_for(0, x.size(0) * tokens, grain, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t row = i / tokens, token = i % tokens;
      const float* vector = from + row * x.stride(0) + token * x.stride(2);
      float* there = to + row * out.stride(0) + (place ? place[token] : token) * out.stride(2);
      for (int64_t head = 0; head < heads; ++head)
        one(vector + head * x.stride(1), row, token, there + head * out.stride(1));
    }
  });
}

void turn_all(const at::Tensor& x, const at::Tensor& cos, const at::Tensor& sin,
              const at::Tensor& out, const int64_t* place) {
  const int64_t half = x.size(3) / 2;
  const int64_t cos_row = cos.size(0) == 1 ? 0 : cos.stride(0);
  const int64_t sin_row = sin.size(0) == 1 ? 0 : sin.stride(0);
  const float *c = cos.const_data_ptr<float>(), *s = sin.const_data_ptr<float>();
  each_vector(x, out, place, [&](const float* from, int64_t row, int64_t token, float* to) {
    turn(from, c + row * cos_row + token * cos.stride(2), s + row * sin_row + token * sin.stride(2),
         to, half);
  });
}

/// Rotary position embedding of x [rows, heads, tokens, dim], its first half of features paired
/// with the second; cos and sin [rows or 1, 1, tokens, dim]. The same bits as the plain chain.
at::Tensor rotary(const at::Tensor& x, const at::Tensor& cos, const at::Tensor& sin) {
  if (!can_turn(x, cos, sin)) return x * cos + rotated(x) * sin;
  at::Tensor out = at::empty_like(x);  // strides as those of x
  if (out.stride(3) != 1) out = at::empty(x.sizes(), x.options());
  turn_all(x, cos, sin, out, nullptr);
  return out;
}

/// Whether vectors of x go into `cache` [rows, heads, places, dim] at `places` [tokens], all of
/// them there.
bool can_write(const at::Tensor& cache, const at::Tensor& places, const at::Tensor& x) {
  if (!is_plain(cache) || !is_plain(x) || !places.device().is_cpu() ||
      places.scalar_type() != at::kLong || places.dim() != 1 || !places.is_contiguous() ||
      places.size(0) != x.size(2) || cache.size(0) != x.size(0) || cache.size(1) != x.size(1) ||
      cache.size(3) != x.size(3))
    return false;
  const int64_t* place = places.const_data_ptr<int64_t>();
  return std::all_of(place, place + places.numel(),
                     [&](int64_t p) { return p >= 0 && p < cache.size(2); });
}

/// cache.index_copy_(2, places, x): keys or values of new tokens.
at::Tensor write_cache(at::Tensor cache, const at::Tensor& places, const at::Tensor& x) {
  if (!can_write(cache, places, x)) return cache.index_copy_(2, places, x);
  each_vector(x, cache, places.const_data_ptr<int64_t>(),
              [n = x.size(3)](const float* from, int64_t, int64_t, float* to) {
                std::copy_n(from, n, to);
              });
  return cache;
}

/// write_cache of rotary(x, cos, sin), without a tensor between.
at::Tensor write_rotary(at::Tensor cache, const at::Tensor& places, const at::Tensor& x,
                        const at::Tensor& cos, const at::Tensor& sin) {
  if (!can_write(cache, places, x) || !can_turn(x, cos, sin))
    return write_cache(std::move(cache), places, rotary(x, cos, sin));
  turn_all(x, cos, sin, cache, places.const_data_ptr<int64_t>());
  return cache;
}

#if defined(CNA_HAS_LANES)
/// gate = gate / (1 + e^-gate) * up, of whole lanes.
CNA_FOR_EACH_CPU void activate(float* CNA_APART gate, const float* CNA_APART up, int64_t n) {
  for (int64_t i = 0; i < n; i += kLanes) {
    Lanes x, by;
    load(gate + i, x), load(up + i, by);
    Lanes power = -x;
    exp_of(power);
    store(x / (1.0F + power) * by, gate + i);
  }
}
#endif

/// silu(gate) * up, in the gate's own memory.
at::Tensor silu_times(at::Tensor gate, const at::Tensor& up) {
#if defined(CNA_HAS_LANES)
  const auto fits = [](const at::Tensor& x) {
    return x.scalar_type() == at::kFloat && x.device().is_cpu() && x.is_contiguous() &&
           x.numel() % kLanes == 0;
  };
  if (fits(gate) && fits(up) && gate.sizes() == up.sizes()) {
    float* to = gate.mutable_data_ptr<float>();
    const float* by = up.const_data_ptr<float>();
    const auto part = [&](int64_t begin, int64_t end) {
      activate(to + begin * kLanes, by + begin * kLanes, (end - begin) * kLanes);
    };
    at::parallel_for(0, gate.numel() / kLanes, rows_a_thread(kLanes), part);
    return gate;
  }
#endif
  return at::silu_(gate).mul_(up);
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(cna, m) {
  m.def("loop_threads() -> int", loop_threads);
  m.def("rms_norm(Tensor x, Tensor gain, float eps) -> Tensor");
  m.impl("rms_norm", c10::DispatchKey::CompositeExplicitAutograd, TORCH_FN(rms_norm));
  m.def("rotary(Tensor x, Tensor cos, Tensor sin) -> Tensor");
  m.impl("rotary", c10::DispatchKey::CompositeExplicitAutograd, TORCH_FN(rotary));
  m.def("silu_times(Tensor(a!) gate, Tensor up) -> Tensor(a!)");
  m.impl("silu_times", c10::DispatchKey::CompositeExplicitAutograd, TORCH_FN(silu_times));
  m.def("write_cache(Tensor(a!) cache, Tensor places, Tensor x) -> Tensor(a!)");
  m.impl("write_cache", c10::DispatchKey::CompositeExplicitAutograd, TORCH_FN(write_cache));
  m.def(
      "write_rotary(Tensor(a!) cache, Tensor places, Tensor x, Tensor cos, Tensor sin) -> "
      "Tensor(a!)");
  m.impl("write_rotary", c10::DispatchKey::CompositeExplicitAutograd, TORCH_FN(write_rotary));
}

}  // namespace cna
