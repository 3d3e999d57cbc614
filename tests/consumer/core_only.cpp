// The core alone: no torch header is included and no torch library is linked.
#include <cna/attribution.hpp>
#include <cna/circuit.hpp>

#if defined(C10_API) || defined(TORCH_API)
#error the core must not include torch
#endif

int main() {
  cna::Grid delta = cna::Grid::Zero(2, 3);
  delta(1, 2) = -4.0;
  delta(0, 1) = 3.0;
  const cna::Circuit circuit({2, 3}, cna::top_k(delta, 2));
  const cna::Circuit back = cna::circuit_from_json(cna::to_json(circuit));
  fmt::print("{} {}\n", back.neurons()[0].layer, back.neurons()[0].index);
  return back == circuit ? 0 : 1;
}
