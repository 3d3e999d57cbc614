/// What a failed step says to a user: one line of torch's message, without its traces.
#pragma once

#include <exception>
#include <string>

#include "cna/torch/step.hpp"

namespace cna {

/// The first line of an exception, behind the interpreter's own trace.
[[nodiscard]] std::string first_line(const std::exception& error);

/// Throws OutOfMemory where the device had no room for the step, else Error.
[[noreturn]] void throw_step_error(const Step& step, const std::exception& error);

/// The same for the key and value buffers of `rows` rows of `tokens` tokens.
[[noreturn]] void throw_allocation_error(int64_t rows, int64_t tokens, const std::exception& error);

/// The same for a model that could not move; it is still where it was.
[[noreturn]] void throw_move_error(c10::Device to, c10::Device from, const std::exception& error);

/// In a handler: throws OutOfMemory where `error` says that a device was full, else what came.
[[noreturn]] void rethrow(const char* function, const std::exception& error);

}  // namespace cna
