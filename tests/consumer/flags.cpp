// Arrays that the library allocated are changed and freed here, under this file's own flags.
#include <cna/torch/discover.hpp>

#include "../cpp/live_model.hpp"

int main() {
  cna::Model model = cna::test::LiveModel().host();
  const std::vector<cna::TokenIds> positive = {{3, 1, 4}, {1, 5, 9, 2}, {6, 5}},
                                   negative = {{3, 5, 8}, {9, 7}, {9, 3, 2, 3}};
  cna::Contrast found = cna::contrast(model, positive, negative);
  const cna::Contrast again = cna::contrast(model, positive, negative);
  found = again;  // frees the library's arrays and takes ones of this file
  cna::UniversalCounter counter = cna::count_universal(model, positive, 0.1);
  counter.merge(cna::count_universal(model, negative, 0.1));
  cna::DiscoverOptions options;
  options.k = 8;
  options.universal = counter.universal(1.0, 1);
  const cna::Circuit circuit = cna::select_circuit(model.info(), found, options);
  for (const cna::Neuron& n : circuit.neurons())
    fmt::print("{} {} {:.17g}\n", n.layer, n.index, n.delta);
  found.positive.merge(found.negative);
  return found.positive.count() == 6 && circuit.size() == 8 ? 0 : 1;
}
