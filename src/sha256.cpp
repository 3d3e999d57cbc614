#include "cna/sha256.hpp"

#include <algorithm>
#include <array>
#include <bit>
#include <cstdint>
#include <cstring>
#include <fstream>
#include <vector>

#include "cna/error.hpp"

namespace cna {
namespace {

/// The first 32 bits of the fractional part of a root of a prime.
constexpr uint32_t fraction_bits(long double root) {
  return static_cast<uint32_t>((root - static_cast<long double>(static_cast<int64_t>(root))) *
                               4294967296.0L);
}

/// Newton's method for x^degree = prime, to the last bit of a long double.
constexpr long double root_of(int prime, int degree) {
  long double x = prime;
  for (int i = 0; i < 100; ++i) {
    const long double power = degree == 2 ? x : x * x;
    x -= (x * power - prime) / (static_cast<long double>(degree) * power);
  }
  return x;
}

constexpr bool is_prime(int n) {
  for (int d = 2; d * d <= n; ++d) {
    if (n % d == 0) return false;
  }
  return true;
}

/// Constants of the standard: from the roots of the first primes.
template <size_t N>
constexpr std::array<uint32_t, N> constants(int degree) {
  std::array<uint32_t, N> out{};
  int prime = 2;
  for (uint32_t& value : out) {
    value = fraction_bits(root_of(prime, degree));
    do ++prime;
    while (!is_prime(prime));
  }
  return out;
}

constexpr auto kRounds = constants<64>(3);

class Sha256 {
 public:
  void add(const char* data, size_t size) {
    length_ += size;
    while (size > 0) {
      const size_t part = std::min(size, block_.size() - filled_);
      std::memcpy(block_.data() + filled_, data, part);
      filled_ += part, data += part, size -= part;
      if (filled_ == block_.size()) mix();
    }
  }

  std::string finish() {
    const uint64_t bits = 8 * length_;
    const char one = static_cast<char>(0x80), zero = 0;
    add(&one, 1);
    while (filled_ != 56) add(&zero, 1);
    for (int shift = 56; shift >= 0; shift -= 8) {
      const char byte = static_cast<char>(bits >> shift);
      add(&byte, 1);
    }
    std::string out;
    for (const uint32_t word : state_) out += fmt::format("{:08x}", word);
    return out;
  }

 private:
  void mix() {
    std::array<uint32_t, 64> w;
    for (size_t i = 0; i < 16; ++i) {
      w[i] = 0;
      for (size_t b = 0; b < 4; ++b) w[i] = w[i] << 8 | block_[4 * i + b];
    }
    for (size_t i = 16; i < 64; ++i) {
      const uint32_t a = w[i - 15], b = w[i - 2];
      w[i] = w[i - 16] + (std::rotr(a, 7) ^ std::rotr(a, 18) ^ a >> 3) + w[i - 7] +
             (std::rotr(b, 17) ^ std::rotr(b, 19) ^ b >> 10);
    }
    auto [a, b, c, d, e, f, g, h] = state_;
    for (size_t i = 0; i < 64; ++i) {
      const uint32_t t1 = h + (std::rotr(e, 6) ^ std::rotr(e, 11) ^ std::rotr(e, 25)) +
                          ((e & f) ^ (~e & g)) + kRounds[i] + w[i];
      const uint32_t t2 =
          (std::rotr(a, 2) ^ std::rotr(a, 13) ^ std::rotr(a, 22)) + ((a & b) ^ (a & c) ^ (b & c));
      h = g, g = f, f = e, e = d + t1, d = c, c = b, b = a, a = t1 + t2;
    }
    const std::array<uint32_t, 8> add{a, b, c, d, e, f, g, h};
    for (size_t i = 0; i < 8; ++i) state_[i] += add[i];
    filled_ = 0;
  }

  std::array<uint32_t, 8> state_ = constants<8>(2);
  std::array<uint8_t, 64> block_{};
  size_t filled_ = 0;
  uint64_t length_ = 0;
};

}  // namespace

std::string sha256(std::string_view bytes) {
  Sha256 digest;
  digest.add(bytes.data(), bytes.size());
  return digest.finish();
}

std::string sha256_of_file(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  Sha256 digest;
  std::vector<char> block(size_t{1} << 20);
  while (file.read(block.data(), static_cast<std::streamsize>(block.size())), file.gcount() > 0)
    digest.add(block.data(), static_cast<size_t>(file.gcount()));
  if (!file.is_open() || file.bad()) {
    throw_error("sha256: expected to read '{}', got an error; check the path and its permissions",
                path.string());
  }
  return digest.finish();
}

}  // namespace cna
