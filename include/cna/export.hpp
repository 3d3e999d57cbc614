/// CNA_API marks what libcna_torch gives to its users; everything else in it stays hidden.
///
/// Exceptions carry it too: a type thrown in one library must be the type caught in another.
#pragma once

#if defined(_WIN32)
#if defined(CNA_TORCH_BUILD)
#define CNA_API __declspec(dllexport)
#else
#define CNA_API
#endif
#else
#define CNA_API __attribute__((visibility("default")))
#endif
