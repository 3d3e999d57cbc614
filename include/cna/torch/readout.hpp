/// What a model's weights say of its neurons: what they write, and how the answer is read.
///
///   residual stream <- ... + W_down a            (gain * W_down a / rms where a norm stands
///   behind) logits = unembedding (gain * x / rms(x))     (x less its mean first, where the norm
///   centres)
///
/// Rankings in the units of the answer need them (cna/torch/contribution.hpp); hosts give them, one
/// layer at a time.
#pragma once

#include <ATen/core/Tensor.h>

namespace cna {

/// What the neurons of one layer write.
struct Write {
  at::Tensor weight;  ///< of the down projection, [hidden, width], on the model's device
  at::Tensor gain;    ///< of the norm behind the MLP, [hidden]; undefined where there is none
};

/// How logits are read off the residual stream.
struct Readout {
  at::Tensor unembedding;  ///< [vocab, hidden]
  at::Tensor gain;         ///< of the final norm, [hidden]
  bool centred = false;    ///< the final norm takes the mean off: LayerNorm
};

}  // namespace cna
