/// What a torch exception says to a user: its first line, without traces.
#pragma once

#include <exception>
#include <string>

namespace cna {

std::string first_line(const std::exception& error);

}  // namespace cna
