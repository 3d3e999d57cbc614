/// An accumulator keeps what is wanted of recorded activations while they stream by.
///
/// It takes a batch one layer at a time, layers in ascending order, then the end of the batch.
/// GroupedMoments and BasicUniversalCounter of the core are accumulators on device tensors; write
/// your own with these two members:
///
///   void add(int64_t layer, std::span<const int64_t> prompts, const at::Tensor& activations);
///   void end_batch();
///
/// `activations` are [rows, features], float32, on the model's device; row i is the last token of
/// prompt number prompts[i].
#pragma once

#include <concepts>
#include <cstdint>
#include <span>

#include "cna/torch/step.hpp"
#include "cna/torch/tensor_traits.hpp"

namespace cna {

template <class A>
concept Accumulator =
    requires(A& a, int64_t layer, std::span<const int64_t> prompts, const at::Tensor& activations) {
      a.add(layer, prompts, activations);
      a.end_batch();
    };

/// An accumulator and the site that feeds it.
template <Site kSite, Accumulator A>
struct Feed {
  static constexpr Site site = kSite;
  A& accumulator;
};

/// What reads the logits behind each prompt, [rows, vocab], instead of a site's activations.
template <class A>
concept LogitReader = requires(A& a, std::span<const int64_t> prompts, const at::Tensor& logits) {
  a.add(prompts, logits);
};

template <LogitReader A>
struct LogitFeed {
  A& reader;
};

/// Feeds `reader`, which must outlive the recording, with logits.
template <LogitReader A>
[[nodiscard]] LogitFeed<A> at_logits(A& reader) {
  return {reader};
}

/// Feeds `accumulator`, which must outlive the recording, from a site.
template <Site site, Accumulator A>
[[nodiscard]] Feed<site, A> at(A& accumulator) {
  return {accumulator};
}

}  // namespace cna
