/// What a torch exception says to a user: its first line, without traces.
#pragma once

#include <exception>
#include <string>

#include "cna/torch/host.hpp"

namespace cna {

std::string first_line(const std::exception& error);

/// What a failed step says; throws Error.
[[noreturn]] void throw_step_error(const Step& step, const std::exception& error);

}  // namespace cna
