// Finds a circuit and prints a steered continuation, without any Python.
//
//   find_and_steer MODEL POSITIVE NEGATIVE PROMPT CIRCUIT [contribution]
//
// MODEL is a folder made by `cna export`. POSITIVE, NEGATIVE and PROMPT are text files with one
// prompt a line, as token ids separated by spaces. The circuit is saved as CIRCUIT (JSON); neurons
// are ranked by delta, or by contribution.
#include <fmt/ranges.h>

#include <cna/torch/discover.hpp>
#include <cna/torch/generate.hpp>
#include <cstdio>
#include <fstream>
#include <sstream>
#include <string_view>

std::vector<cna::TokenIds> read_tokens(const char* path) {
  std::ifstream file(path);
  if (!file)
    cna::throw_error("read_tokens: expected a file at '{}', found none; check the path", path);
  std::vector<cna::TokenIds> prompts;
  for (std::string line; std::getline(file, line);) {
    std::istringstream numbers(line);
    cna::TokenIds ids;
    for (int64_t id = 0; numbers >> id;) ids.push_back(id);
    if (!ids.empty()) prompts.push_back(ids);
  }
  return prompts;
}

int main(int argc, char** argv) {
  const bool by_contribution = argc == 7 && std::string_view(argv[6]) == "contribution";
  if (argc != 6 && !by_contribution) {
    std::fprintf(stderr, "usage: %s MODEL POSITIVE NEGATIVE PROMPT CIRCUIT [contribution]\n",
                 argv[0]);
    return 2;
  }
  try {
    cna::Model model = cna::Model::load(argv[1]);
    cna::DiscoverOptions options{.fraction = 0.001};
    if (by_contribution) options.ranking = cna::Ranking::contribution;
    const cna::Circuit circuit =
        cna::discover(model, read_tokens(argv[2]), read_tokens(argv[3]), options);
    cna::save_circuit(circuit, argv[5]);
    for (const cna::Neuron& n : circuit.neurons())
      fmt::print("layer {:2} neuron {:5} delta {:+.4f}\n", n.layer, n.index, n.delta);

    cna::RunOptions ablated;
    ablated.intervention = cna::Intervention::ablate(circuit);
    for (const auto& answer :
         cna::generate(model, read_tokens(argv[4]), {.max_new_tokens = 16}, ablated))
      fmt::print("steered: {}\n", fmt::join(answer, " "));
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 2;
  }
  return 0;
}
