/// One face for Catch2 version 2 and 3, and two helpers that every test file uses.
#pragma once

#if __has_include(<catch2/catch_all.hpp>)
#include <catch2/catch_all.hpp>
#else
#include <catch2/catch.hpp>
#endif

#include <exception>
#include <string>

namespace cna::test {

#if __has_include(<catch2/catch_all.hpp>)
using Catch::Approx;
#else
using Catch::Detail::Approx;
#endif

/// The message of the `Exception` that `call` throws, or a note about what it did instead.
template <class Exception, class Call>
std::string message_of(Call&& call) {
  try {
    call();
  } catch (const std::exception& error) {
    const bool expected = dynamic_cast<const Exception*>(&error) != nullptr;
    return (expected ? "" : "(threw another type) ") + std::string(error.what());
  }
  return "(threw nothing)";
}

inline bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

}  // namespace cna::test
