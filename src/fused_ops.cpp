#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <torch/library.h>

#include <array>
#include <cmath>
#include <optional>

namespace cna {
namespace {

/// Rows a thread takes at least, so that starting it pays.
int64_t rows_a_thread(int64_t features) { return std::max<int64_t>(1, 16384 / features); }

float sum_of_squares(const float* x, int64_t n) {
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
    for (int64_t row = begin; row < end; ++row) {
      const float* a = from + row * n;
      float* y = to + row * n;
      const float scale = 1.0F / std::sqrt(sum_of_squares(a, n) / static_cast<float>(n) + small);
      for (int64_t i = 0; i < n; ++i) y[i] = g[i] * (a[i] * scale);
    }
  });
  return out;
}

at::Tensor rotated(const at::Tensor& x) {
  const int64_t half = x.size(-1) / 2;
  return at::cat({x.narrow(-1, half, x.size(-1) - half).neg(), x.narrow(-1, 0, half)}, -1);
}

/// Rotary position embedding of x [rows, heads, tokens, dim], its first half of features paired
/// with the second; cos and sin [rows or 1, 1, tokens, dim]. The same bits as the plain chain.
at::Tensor rotary(const at::Tensor& x, const at::Tensor& cos, const at::Tensor& sin) {
  const auto fits = [&](const at::Tensor& angle) {
    return angle.scalar_type() == at::kFloat && angle.device().is_cpu() && angle.dim() == 4 &&
           angle.stride(3) == 1 && angle.size(3) == x.size(3) && angle.size(2) == x.size(2) &&
           angle.size(1) == 1 && (angle.size(0) == x.size(0) || angle.size(0) == 1);
  };
  if (x.scalar_type() != at::kFloat || !x.device().is_cpu() || x.dim() != 4 || x.stride(3) != 1 ||
      x.size(3) % 2 != 0 || x.numel() == 0 || !fits(cos) || !fits(sin))
    return x * cos + rotated(x) * sin;
  at::Tensor out = at::empty_like(x);  // strides as those of x
  if (out.stride(3) != 1) out = at::empty(x.sizes(), x.options());
  const int64_t heads = x.size(1), tokens = x.size(2), half = x.size(3) / 2;
  const int64_t cos_row = cos.size(0) == 1 ? 0 : cos.stride(0);
  const int64_t sin_row = sin.size(0) == 1 ? 0 : sin.stride(0);
  const float *from = x.const_data_ptr<float>(), *c0 = cos.const_data_ptr<float>(),
              *s0 = sin.const_data_ptr<float>();
  float* to = out.mutable_data_ptr<float>();
  const int64_t vectors = x.size(0) * heads * tokens;
  at::parallel_for(0, vectors, rows_a_thread(2 * half), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t row = i / (heads * tokens), token = i / heads % tokens, head = i % heads;
      const float* a = from + row * x.stride(0) + head * x.stride(1) + token * x.stride(2);
      const float *c = c0 + row * cos_row + token * cos.stride(2),
                  *s = s0 + row * sin_row + token * sin.stride(2);
      float* y = to + row * out.stride(0) + head * out.stride(1) + token * out.stride(2);
      for (int64_t j = 0; j < half; ++j) {
        y[j] = a[j] * c[j] + -a[j + half] * s[j];
        y[j + half] = a[j + half] * c[j + half] + a[j] * s[j + half];
      }
    }
  });
  return out;
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(cna, m) {
  m.def("rms_norm(Tensor x, Tensor gain, float eps) -> Tensor");
  m.impl("rms_norm", c10::DispatchKey::CompositeExplicitAutograd, TORCH_FN(rms_norm));
  m.def("rotary(Tensor x, Tensor cos, Tensor sin) -> Tensor");
  m.impl("rotary", c10::DispatchKey::CompositeExplicitAutograd, TORCH_FN(rotary));
}

}  // namespace cna
