/// Finds chains of small operators in a graph and puts one operator in their place.
///
/// RMS norm and rotary embedding as transformers writes them, keys and values on their way into the
/// buffers, SiLU times up (fused_ops.cpp), the attention of an export (attend.cpp). Only for graphs
/// of float32 on a CPU. Private to the library.
#pragma once

#include <torch/csrc/jit/ir/ir.h>

namespace cna {

/// gain * to(x * rsqrt(mean(x^2) + eps)) as cna::rms_norm; sums in another order.
void fuse_rms_norms(::torch::jit::Graph& graph);

/// x * cos + cat(-x2, x1) * sin as cna::rotary; the same bits.
void fuse_rotary(::torch::jit::Graph& graph);

/// Keys and values written into their buffers by index, as cna::write_cache, or as
/// cna::write_rotary where they are turned first; the same bits. Behind fuse_rotary.
void fuse_cache_writes(::torch::jit::Graph& graph);

/// The grouped attention of an export, with a branch for each case, as cna::attend; sums of few
/// tokens in another order.
void fuse_attention(::torch::jit::Graph& graph);

/// silu(gate) * up as cna::silu_times in the gate's own memory, where nothing else reads it; last
/// bits change.
void activate_in_place(::torch::jit::Graph& graph);

}  // namespace cna
