// The LibTorch floor: loads an exported folder and generates from token ids.
#include <fmt/ranges.h>

#include <cna/torch/generate.hpp>

int main(int argc, char** argv) {
  if (argc != 2) return 2;
  cna::Model model = cna::Model::load(argv[1]);
  const std::vector<cna::TokenIds> prompts = {{1, 2, 3}, {4, 5}};
  for (const auto& answer :
       cna::generate(model, prompts, {.max_new_tokens = 4, .ignore_eos = true}))
    fmt::print("{}\n", fmt::join(answer, " "));
  return 0;
}
