/// What options ask of a TorchScript file, refused where it has none. Private to the library.
#pragma once

#include <c10/core/ScalarType.h>

#include "cna/manifest.hpp"
#include "cna/torch/host.hpp"

namespace cna {

/// @throws ValueError where products in bfloat16 are asked of a graph, device or processor without.
void require_precision(const HostOptions& options, c10::ScalarType dtype);

/// @throws ValueError where a form of products is asked of a graph, device or torch without.
void require_products(const HostOptions& options, c10::ScalarType dtype);

/// @throws ValueError where captured steps are asked of a bare file, an export whose buffers take
/// no
///         room, or a device that captures nothing.
void require_capture(const HostOptions& options, bool exported, const Manifest& manifest);

}  // namespace cna
