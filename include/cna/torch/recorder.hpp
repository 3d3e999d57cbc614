/// Recording reads activations at the last token of each prompt and feeds them to accumulators.
///
///   record(model, prompts, options,
///          at<Site::neuron>(moments), at<Site::residual>(vectors), at<Site::neuron>(universal));
///
/// One pass over the prompts feeds any number of accumulators at any sites, batch by batch and
/// layer by layer; memory does not grow with the number of prompts.
#pragma once

#include <functional>
#include <span>
#include <tuple>
#include <type_traits>
#include <vector>

#include "cna/export.hpp"
#include "cna/torch/accumulator.hpp"
#include "cna/torch/model.hpp"
#include "cna/torch/tokens.hpp"

namespace cna {

/// One pass over all prompts, fed to every accumulator. If it throws, the accumulators hold the
/// batches before.
/// @throws ValueError for bad prompts; Error naming prompt and layer for NaN or infinity.
template <class... Feeds>
void record(Model& model, std::span<const TokenIds> prompts, const RunOptions& options,
            Feeds... feeds);

/// Takes one batch: the prompts' numbers and their activations [rows, layers, features], float32,
/// on the model's device.
using RecordSink =
    std::function<void(std::span<const int64_t> rows, const at::Tensor& activations)>;

/// Streams the last token's activations of every prompt to `sink`; they are inference tensors, so
/// copy them before changing them. Layers of a batch are put together: an accumulator needs less.
/// @throws as above.
CNA_API void record(Model& model, std::span<const TokenIds> prompts, Site site,
                    const RunOptions& options, const RecordSink& sink);

/// All of them at once, on the CPU: [prompts, layers, features], float32.
[[nodiscard]] CNA_API at::Tensor record_all(Model& model, std::span<const TokenIds> prompts,
                                            Site site, const RunOptions& options = {});

// ---------------------------------------------------------------------------------------------

namespace detail {

/// What the compiled part of the recorder calls; accumulators stand behind it.
class LayerSink {
 public:
  virtual ~LayerSink() = default;
  virtual void take(Site site, int64_t layer, std::span<const int64_t> prompts,
                    const at::Tensor& activations) = 0;
  virtual void end_batch() = 0;
  /// Whether the pass must go on to the logits, and who takes them, [rows, vocab].
  [[nodiscard]] virtual bool wants_logits() const { return false; }
  virtual void take_logits(std::span<const int64_t> /*prompts*/, const at::Tensor& /*logits*/) {}
};

template <class Feed>
inline constexpr bool reads_logits = requires(Feed feed) { feed.reader; };

CNA_API void record_layers(Model& model, std::span<const TokenIds> prompts,
                           std::span<const Site> sites, const RunOptions& options, LayerSink& sink);

template <class... Feeds>
class FeedAll final : public LayerSink {
 public:
  explicit FeedAll(Feeds... feeds) : feeds_(feeds...) {}

  void take(Site site, int64_t layer, std::span<const int64_t> prompts,
            const at::Tensor& activations) override {
    const auto feed = [&](auto& one) {
      if constexpr (!reads_logits<std::remove_cvref_t<decltype(one)>>) {
        if (one.site == site) one.accumulator.add(layer, prompts, activations);
      }
    };
    std::apply([&](auto&... each) { (feed(each), ...); }, feeds_);
  }
  void end_batch() override {
    const auto end = [](auto& one) {
      if constexpr (!reads_logits<std::remove_cvref_t<decltype(one)>>) one.accumulator.end_batch();
    };
    std::apply([&](auto&... each) { (end(each), ...); }, feeds_);
  }
  [[nodiscard]] bool wants_logits() const override { return (reads_logits<Feeds> || ...); }
  void take_logits(std::span<const int64_t> prompts, const at::Tensor& logits) override {
    const auto feed = [&](auto& one) {
      if constexpr (reads_logits<std::remove_cvref_t<decltype(one)>>)
        one.reader.add(prompts, logits);
    };
    std::apply([&](auto&... each) { (feed(each), ...); }, feeds_);
  }

 private:
  std::tuple<Feeds...> feeds_;
};

}  // namespace detail

template <class... Feeds>
void record(Model& model, std::span<const TokenIds> prompts, const RunOptions& options,
            Feeds... feeds) {
  static_assert(sizeof...(feeds) > 0, "record: pass an accumulator, as at<Site::neuron>(moments)");
  std::vector<Site> sites;
  const auto note = [&]<class Feed>(const Feed&) {
    if constexpr (!detail::reads_logits<Feed>) sites.push_back(Feed::site);
  };
  (note(feeds), ...);
  detail::FeedAll<Feeds...> sink(feeds...);
  detail::record_layers(model, prompts, sites, options, sink);
}

}  // namespace cna
