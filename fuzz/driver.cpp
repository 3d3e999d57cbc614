/// Runs LLVMFuzzerTestOneInput on mutated seeds where there is no libFuzzer.
///
///   circuit_reader [-max_total_time=SECONDS] [-seed=N] FOLDER_OR_FILE...
///
/// A file that is named is run once as it is, which is how a finding is reproduced. Guided by
/// coverage where the target, but not this file, is compiled with -fsanitize-coverage=trace-pc (g++
/// and clang++): what reaches a new place, or one more often than before, is kept and mutated
/// again.
#include <unistd.h>

#include <algorithm>
#include <array>
#include <bit>
#include <chrono>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <random>
#include <string>
#include <vector>

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, std::size_t size);

namespace {

using Random = std::mt19937_64;

constexpr std::size_t longest = 8192;  // bytes of what is kept
constexpr unsigned slowest = 30;       // seconds of one run

std::array<uint8_t, 1 << 16> hits;  // how often each place was passed, saturated, by hash
std::array<uint8_t, 1 << 16> seen;  // a bit per power of two of that, over all runs

std::string current;  // written to crash-input when the program ends badly

void keep_input(int signal) {
  if (std::FILE* file = std::fopen("crash-input", "wb")) {
    std::fwrite(current.data(), 1, current.size(), file);
    std::fclose(file);
  }
  std::signal(signal, SIG_DFL);
  std::raise(signal);
}

std::size_t below(Random& random, std::size_t limit) { return limit == 0 ? 0 : random() % limit; }

const std::vector<std::string>& words() {
  static const std::vector<std::string> list{"\"format\"",
                                             "\"neurons\"",
                                             "\"provenance\"",
                                             "[",
                                             "]",
                                             "{",
                                             "}",
                                             "null",
                                             "-1",
                                             "2147483648",
                                             "1e400",
                                             "1e-5000",
                                             "4294967296",
                                             "NaN",
                                             "\"\\ud800\"",
                                             "true",
                                             "0.5",
                                             ",",
                                             ":",
                                             "\"",
                                             "[[0,0,0]]",
                                             "[[[[[[[[[[[[",
                                             "\xff\xfe",
                                             "\xed\xa0\x80",
                                             "\\u0000"};
  return list;
}

void mutate(std::string& text, const std::vector<std::string>& seeds, Random& random) {
  const std::size_t at = below(random, text.size() + 1);
  const std::size_t length = below(random, std::min<std::size_t>(text.size() - at + 1, 16));
  switch (below(random, 7)) {
    case 0:
      if (at < text.size()) text[at] = static_cast<char>(text[at] ^ (1 << below(random, 8)));
      break;
    case 1:
      if (at < text.size()) text[at] = static_cast<char>(random());
      break;
    case 2:
      text.erase(at, length);
      break;
    case 3:
      text.insert(at, words()[below(random, words().size())]);
      break;
    case 4:
      text.insert(below(random, text.size() + 1), text.substr(at, length));
      break;
    case 5: {
      const std::string& other = seeds[below(random, seeds.size())];
      text = text.substr(0, at) + other.substr(below(random, other.size() + 1));
      break;
    }
    default:
      text.replace(at, length, words()[below(random, words().size())]);
  }
}

std::string read(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

/// True where the text reached something new.
bool run(const std::string& text) {
  current = text;
  hits.fill(0);
  ::alarm(slowest);
  LLVMFuzzerTestOneInput(reinterpret_cast<const uint8_t*>(current.data()), current.size());
  bool fresh = false;
  for (std::size_t i = 0; i < hits.size(); ++i) {
    if (hits[i] == 0) continue;
    const auto bit = static_cast<uint8_t>(1 << (std::bit_width(hits[i]) - 1));
    fresh = fresh || (seen[i] & bit) == 0;
    seen[i] |= bit;
  }
  return fresh;
}

}  // namespace

// A report ends in SIGABRT, so that the input is kept.
extern "C" const char* __asan_default_options() { return "abort_on_error=1"; }
extern "C" const char* __ubsan_default_options() { return "abort_on_error=1"; }

extern "C" void __sanitizer_cov_trace_pc() {
  const auto place = reinterpret_cast<uintptr_t>(__builtin_return_address(0));
  uint8_t& count = hits[(place ^ (place >> 16)) % hits.size()];
  if (count < 255) ++count;
}

int main(int argc, char** argv) {
  double seconds = 0.0;
  uint64_t seed = 1;
  std::vector<std::string> seeds;
  for (int i = 1; i < argc; ++i) {
    const std::string argument = argv[i];
    if (argument.rfind("-max_total_time=", 0) == 0) {
      seconds = std::atof(argument.c_str() + 16);
    } else if (argument.rfind("-seed=", 0) == 0) {
      seed = std::strtoull(argument.c_str() + 6, nullptr, 10);
    } else if (std::filesystem::is_directory(argument)) {
      for (const auto& entry : std::filesystem::directory_iterator(argument)) {
        seeds.push_back(read(entry.path()));
      }
    } else if (argument[0] != '-') {
      seeds.push_back(read(argument));
    }
  }
  std::signal(SIGABRT, keep_input);
  std::signal(SIGSEGV, keep_input);
  std::signal(SIGALRM, keep_input);
  for (const std::string& text : seeds) (void)run(text);
  if (seeds.empty()) seeds.emplace_back("{}");
  Random random(seed);
  uint64_t executions = 0;
  const auto start = std::chrono::steady_clock::now();
  const auto elapsed = [&] {
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  };
  while (elapsed() < seconds) {
    for (int i = 0; i < 1000; ++i, ++executions) {
      std::string text = seeds[below(random, seeds.size())];
      for (std::size_t edits = 1 + below(random, 6); edits > 0; --edits) {
        mutate(text, seeds, random);
      }
      if (run(text) && text.size() <= longest) seeds.push_back(text);
    }
  }
  const auto places =
      std::count_if(seen.begin(), seen.end(), [](uint8_t bits) { return bits != 0; });
  std::printf("Done %llu runs in %.0f second(s): %ld places, corpus of %zu\n",
              static_cast<unsigned long long>(executions), elapsed(), static_cast<long>(places),
              seeds.size());
  return 0;
}
