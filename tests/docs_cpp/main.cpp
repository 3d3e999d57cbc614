// Runs each C++ block of README and docs. The test writes block n of a page as page_n.hpp, in a
// namespace of that name, and compares what is printed here with what Python gives.

#include <fmt/ranges.h>

#include "README_1.hpp"
#include "hosts_1.hpp"
#include "quickstart_cpp_1.hpp"
#include "quickstart_cpp_2.hpp"
#include "quickstart_cpp_3.hpp"
#include "quickstart_cpp_4.hpp"

namespace {

void print(const cna::Circuit& circuit) {
  for (const cna::Neuron& neuron : circuit.neurons())
    fmt::print("{},{} ", neuron.layer, neuron.index);
  fmt::print("\n");
}

cna::Moments<cna::Grid> moments_of(std::initializer_list<double> values) {
  cna::Moments<cna::Grid> moments;
  cna::Grid sample(2, 2);
  std::copy(values.begin(), values.end(), sample.data());
  moments.add(sample);
  return moments;
}

}  // namespace

int main() {
  const std::vector<cna::TokenIds> positive = {{1, 2, 3}, {4, 5, 6, 7}, {8}};
  const std::vector<cna::TokenIds> negative = {{9, 10}, {11, 12, 13, 14, 15}};

  README_1::find_and_steer(positive, negative);
  const cna::Circuit circuit = cna::load_circuit("circuit.json");
  print(circuit);

  quickstart_cpp_1::find_and_steer(positive, negative, {{16, 17}, {18, 19, 20}});
  print(cna::load_circuit("circuit.json"));

  cna::Model compiled = hosts_1::open_compiled();
  for (const auto& answer : quickstart_cpp_2::sweep(compiled, circuit, {16, 17}))
    fmt::print("{}\n", fmt::join(answer, " "));

  std::vector<cna::TokenIds> both = positive;
  both.insert(both.end(), negative.begin(), negative.end());
  cna::Model exported = cna::Model::load("smollm2-exported");
  const at::Tensor mean = quickstart_cpp_3::one_pass(exported, both);
  fmt::print("{} {:.4f}\n", fmt::join(mean.sizes(), " "), mean.abs().sum().item<double>());

  print(quickstart_cpp_4::top_two(moments_of({1, -8, 3, 0}), moments_of({0, 1, 0, 0.5})));
}
