/// The exceptions cna throws, and one helper per exception that formats its message.
///
///   Error <- ValueError, IndexError, FileNotFound, OutOfMemory, NonFinite, Interrupted
///
/// `catch (const cna::Error&)` therefore catches all of them. Every message has the form
/// `function: what was expected, what came; what to do` on one line.
#pragma once

#include <fmt/format.h>

#include <cstdint>
#include <stdexcept>
#include <string>
#include <utility>

#include "cna/export.hpp"

namespace cna {

/// The root; thrown itself where a file, a device or a model fails. Python: RuntimeError.
class CNA_API Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// An argument has a value that makes no sense. Python: ValueError.
class CNA_API ValueError : public Error {
 public:
  using Error::Error;
};

/// A layer, neuron or token lies outside its range. Python: IndexError.
class CNA_API IndexError : public Error {
 public:
  using Error::Error;
};

/// A file or folder that the caller named does not exist. Python: FileNotFoundError.
class CNA_API FileNotFound : public Error {
 public:
  using Error::Error;
};

/// A device has no room for a step; fewer rows at once may fit. Python: MemoryError.
class CNA_API OutOfMemory : public Error {
 public:
  using Error::Error;
};

/// A model's numbers overflowed, so that nothing can be read off them. Python: cna.NonFiniteError.
class CNA_API NonFinite : public Error {
 public:
  /// Where: the number of the prompt, and the token of its answer, both from 0; -1: not known.
  explicit NonFinite(const std::string& message, int64_t prompt = -1, int64_t token = -1)
      : Error(message), prompt_(prompt), token_(token) {}

  [[nodiscard]] int64_t prompt() const noexcept { return prompt_; }
  [[nodiscard]] int64_t token() const noexcept { return token_; }

 private:
  int64_t prompt_, token_;
};

/// The caller asked a long computation to stop, for instance with Ctrl-C: `RunOptions::poll` throws
/// it. Python: KeyboardInterrupt.
class CNA_API Interrupted : public Error {
 public:
  using Error::Error;
};

/// Throws `Exception` with a formatted message.
template <class Exception, class... Args>
[[noreturn]] void throw_as(fmt::format_string<Args...> format, Args&&... args) {
  throw Exception(fmt::format(format, std::forward<Args>(args)...));
}

/// Throws Error with a formatted message.
template <class... Args>
[[noreturn]] void throw_error(fmt::format_string<Args...> format, Args&&... args) {
  throw_as<Error>(format, std::forward<Args>(args)...);
}

/// Throws ValueError with a formatted message.
template <class... Args>
[[noreturn]] void throw_value_error(fmt::format_string<Args...> format, Args&&... args) {
  throw_as<ValueError>(format, std::forward<Args>(args)...);
}

/// Throws IndexError with a formatted message.
template <class... Args>
[[noreturn]] void throw_index_error(fmt::format_string<Args...> format, Args&&... args) {
  throw_as<IndexError>(format, std::forward<Args>(args)...);
}

}  // namespace cna
