/// Controls: neurons drawn at random, to tell a circuit's effect from that of any such set.
///
///   as many neurons in each layer as the circuit has, drawn without replacement, delta 0
#pragma once

#include <cstdint>

#include "cna/circuit.hpp"
#include "cna/export.hpp"

namespace cna {

/// Random neurons in the circuit's layers; the same seed gives the same neurons (torch's
/// generator).
/// @param avoid  draw the circuit's own neurons only where a layer has too few others.
[[nodiscard]] CNA_API Circuit random_like(const Circuit& circuit, uint64_t seed = 0,
                                          bool avoid = true);

}  // namespace cna
