/// The exceptions cna throws, and one helper per exception that formats its message.
///
/// Every message has the form `function: what was expected, what came; what to do` on one line.
#pragma once

#include <fmt/format.h>

#include <stdexcept>
#include <utility>

namespace cna {

/// Something outside the caller's arguments failed: a file, a device, a model. Python:
/// RuntimeError.
class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// An argument has a value that makes no sense. Python: ValueError.
class ValueError : public std::invalid_argument {
 public:
  using std::invalid_argument::invalid_argument;
};

/// A layer, neuron or token lies outside its range. Python: IndexError.
class IndexError : public std::out_of_range {
 public:
  using std::out_of_range::out_of_range;
};

/// The caller asked a long computation to stop, for instance with Ctrl-C. Python:
/// KeyboardInterrupt.
class Interrupted : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// Throws Error with a formatted message.
template <class... Args>
[[noreturn]] void throw_error(fmt::format_string<Args...> format, Args&&... args) {
  throw Error(fmt::format(format, std::forward<Args>(args)...));
}

/// Throws ValueError with a formatted message.
template <class... Args>
[[noreturn]] void throw_value_error(fmt::format_string<Args...> format, Args&&... args) {
  throw ValueError(fmt::format(format, std::forward<Args>(args)...));
}

/// Throws IndexError with a formatted message.
template <class... Args>
[[noreturn]] void throw_index_error(fmt::format_string<Args...> format, Args&&... args) {
  throw IndexError(fmt::format(format, std::forward<Args>(args)...));
}

}  // namespace cna
