#include "step_error.hpp"

#include <c10/util/Exception.h>

#include <new>

#include "cna/error.hpp"

namespace cna {
namespace {

/// The interpreter keeps no types: an allocator is known by what it says.
bool is_out_of_memory(const std::exception& error) {
  if (dynamic_cast<const std::bad_alloc*>(&error) ||
      dynamic_cast<const c10::OutOfMemoryError*>(&error))
    return true;
  const std::string text = error.what();
  for (const char* said : {"out of memory", "can't allocate memory", "not enough memory"})
    if (text.find(said) != std::string::npos) return true;
  return false;
}

}  // namespace

std::string first_line(const std::exception& error) {
  const auto* torch_error = dynamic_cast<const c10::Error*>(&error);
  std::string text = torch_error ? torch_error->what_without_backtrace() : error.what();
  // The interpreter puts the cause after its own trace.
  for (const char* marker : {"RuntimeError: ", "Error: "}) {
    if (const auto at = text.rfind(marker); at != std::string::npos) {
      text = text.substr(at);
      break;
    }
  }
  return text.substr(0, text.find('\n'));
}

void throw_step_error(const Step& step, const std::exception& error) {
  if (is_out_of_memory(error)) {
    throw_as<OutOfMemory>(
        "forward: expected room for a step of {} x {} tokens, got: {}; use smaller batches",
        step.ids.size(0), step.ids.size(1), first_line(error));
  }
  throw_error(
      "forward: expected a step of {} x {} tokens to run, got: {}; check token ids and memory",
      step.ids.size(0), step.ids.size(1), first_line(error));
}

void rethrow(const char* function, const std::exception& error) {
  const bool of_torch = dynamic_cast<const c10::Error*>(&error) != nullptr ||
                        dynamic_cast<const std::bad_alloc*>(&error) != nullptr;
  if (!of_torch || !is_out_of_memory(error)) throw;
  throw_as<OutOfMemory>(
      "{}: expected room on the device for a batch, got: {}; use smaller batches or another device",
      function, first_line(error));
}

void throw_move_error(c10::Device to, c10::Device from, const std::exception& error) {
  if (is_out_of_memory(error)) {
    throw_as<OutOfMemory>(
        "to: expected a device '{}' with room for the model, got: {}; the model stays on '{}', "
        "choose another device",
        to.str(), first_line(error), from.str());
  }
  throw_error(
      "to: expected a device '{}' that takes the model, got: {}; the model stays on '{}', choose "
      "another device",
      to.str(), first_line(error), from.str());
}

void throw_allocation_error(int64_t rows, int64_t tokens, const std::exception& error) {
  throw_as<OutOfMemory>(
      "forward: expected room for keys and values of {} rows x {} tokens, got: {}; use smaller "
      "batches or fewer new tokens",
      rows, tokens, first_line(error));
}

}  // namespace cna
