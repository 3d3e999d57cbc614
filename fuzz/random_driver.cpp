/// Runs LLVMFuzzerTestOneInput on mutated seeds where there is no libFuzzer: random, not guided.
///
///   circuit_reader [-max_total_time=SECONDS] [-seed=N] FOLDER_OR_FILE...
///
/// A file that is named is run once as it is, which is how a finding is reproduced.
#include <algorithm>
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

void run(const std::string& text) {
  current = text;
  LLVMFuzzerTestOneInput(reinterpret_cast<const uint8_t*>(current.data()), current.size());
}

}  // namespace

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
  for (const std::string& text : seeds) run(text);
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
      run(text);
    }
  }
  std::printf("Done %llu runs in %.0f second(s)\n", static_cast<unsigned long long>(executions),
              elapsed());
  return 0;
}
