/// What loops of our own over rows of floats share. Private to the library.
///
/// They are compiled for several processors, and the one that runs chooses. Numbers are the same on
/// all: sums keep their lanes, and products and sums are not contracted (CMakeLists.txt).
#pragma once

#include <algorithm>
#include <cstdint>

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && \
    !defined(__SANITIZE_ADDRESS__)
#define CNA_FOR_EACH_CPU \
  __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define CNA_FOR_EACH_CPU
#endif

// Nothing is written through such a pointer that another reads, so that loops need not look: a
// third of the time of rotary embedding. What is inlined is compiled for the caller's processor.
#if defined(_MSC_VER)
#define CNA_APART __restrict
#define CNA_INLINED __forceinline
#else
#define CNA_APART __restrict__
#define CNA_INLINED __attribute__((always_inline)) inline
#endif

namespace cna {

/// Rows a thread takes at least, so that starting it pays.
[[nodiscard]] inline int64_t rows_a_thread(int64_t features) {
  return std::max<int64_t>(1, 16384 / std::max<int64_t>(1, features));
}

#if defined(__GNUC__)
#define CNA_HAS_LANES

/// Floats side by side, which compilers turn into the vectors of a processor.
using Lanes __attribute__((vector_size(32))) = float;
constexpr int64_t kLanes = 8;

CNA_INLINED void load(const float* from, Lanes& to) {
  using Anywhere __attribute__((vector_size(32), aligned(4), may_alias)) = float;
  to = *reinterpret_cast<const Anywhere*>(from);
}
CNA_INLINED void store(const Lanes& from, float* to) {
  using Anywhere __attribute__((vector_size(32), aligned(4), may_alias)) = float;
  *reinterpret_cast<Anywhere*>(to) = from;
}

/// e^x in place, to within 2e-7 of itself: 0 below -87, as at 88 above it, NaN for NaN. Powers of 2
/// by their exponent; the rest, of at most log(2) / 2, by Taylor's series.
CNA_INLINED void exp_of(Lanes& x) {
  using Bits __attribute__((vector_size(32))) = uint32_t;
  constexpr float log2_e = 1.44269504F;
  constexpr float high = 0.693359375F, low = -2.12194440e-4F;  // log(2), in parts
  constexpr float whole = 12582912.0F;  // 1.5 * 2^23: what is added to it loses its fraction
  const auto small = x < -87.0F;
  x = x > 88.0F ? Lanes{} + 88.0F : small ? Lanes{} : x;
  const Lanes shifted = x * log2_e + whole;
  const Lanes power = shifted - whole;
  const Lanes rest = (x - power * high) - power * low;
  Lanes y = rest * (1.0F / 5040) + 1.0F / 720;
  y = y * rest + 1.0F / 120;
  y = y * rest + 1.0F / 24;
  y = y * rest + 1.0F / 6;
  y = y * rest + 0.5F;
  y = y * rest + 1.0F;
  y = y * rest + 1.0F;
  y *= reinterpret_cast<Lanes>((reinterpret_cast<Bits>(shifted) + 127U) << 23U);
  x = small ? Lanes{} : y;
}
#endif

}  // namespace cna
