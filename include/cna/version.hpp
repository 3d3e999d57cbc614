/// The version of cna, as three macros for the preprocessor and one string for people.
///
/// These three lines are the only place where the version is written; the build files read them.
#pragma once

#include <string_view>

#define CNA_VERSION_MAJOR 0
#define CNA_VERSION_MINOR 1
#define CNA_VERSION_PATCH 0

#define CNA_DETAIL_TEXT_OF(x) #x
#define CNA_DETAIL_TEXT(x) CNA_DETAIL_TEXT_OF(x)

namespace cna {

/// "major.minor.patch", for instance "1.2.3".
inline constexpr std::string_view version = CNA_DETAIL_TEXT(CNA_VERSION_MAJOR) "." CNA_DETAIL_TEXT(
    CNA_VERSION_MINOR) "." CNA_DETAIL_TEXT(CNA_VERSION_PATCH);

}  // namespace cna

#undef CNA_DETAIL_TEXT
#undef CNA_DETAIL_TEXT_OF
