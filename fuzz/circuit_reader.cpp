/// Feeds arbitrary bytes to the circuit reader: it may only return a circuit or throw cna's own
/// exceptions, and what it accepts must come back unchanged through to_json.
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <string_view>

#include "cna/circuit.hpp"

namespace {

[[noreturn]] void report(const char* what) {
  std::fprintf(stderr, "circuit_reader: %s\n", what);
  std::abort();
}

void check_message(const std::string& message) {
  if (message.find('\n') != std::string::npos) report("a message of more than one line");
  if (message.find("circuit_from_json: ") != 0) report("a message that does not name its function");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, std::size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  try {
    const cna::Circuit circuit = cna::circuit_from_json(text);
    const std::string written = cna::to_json(circuit);
    const cna::Circuit again = cna::circuit_from_json(written);
    if (!(again == circuit)) report("a circuit that changes when it is written and read");
    if (cna::to_json(again) != written) report("JSON that changes when it is read and written");
    if ((circuit | again).size() != circuit.size()) report("a union with itself that grows");
    if ((circuit - again).size() != 0) report("a difference with itself that is not empty");
  } catch (const cna::ValueError& error) {
    check_message(error.what());
  } catch (const cna::IndexError& error) {
    check_message(error.what());
  }
  return 0;  // every other exception ends the program and is a finding
}
