/// A small causal language model of plain ATen with keys and values, and a reference for it.
///
///   x = E[ids] + P[positions]
///   per layer: x = x + O attention(Q n(x), K n(x), V n(x))
///              x = x + D (silu(G n(x)) * (U n(x)))            n(x) = x / rms(x)
///   logits = n(x) W^T
///
/// Two query heads share one head of keys and values. `LiveModel::host` runs it behind a LiveHost,
/// step by step in the caller's buffers; `LiveModel::run` is the reference: float64, one prompt at
/// a time, no buffers, no padding, no batch, head by head.
#pragma once

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/Parallel.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "cna/circuit.hpp"
#include "cna/torch/live.hpp"
#include "cna/torch/model.hpp"

namespace cna::test {

struct LiveModel {
  static constexpr int64_t kLayers = 2, kHidden = 16, kHeads = 4, kSharedHeads = 2, kDim = 4,
                           kWidth = 24, kVocab = 32, kPositions = 48;

  struct Layer {
    at::Tensor query, key, value, out, gate, up, down;
  };
  at::Tensor embed, places, unembed;
  std::vector<Layer> layers;

  explicit LiveModel(uint64_t seed = 0) {
    at::Generator generator = at::detail::createCPUGenerator(seed);
    // Weights of about unit gain, so that logits are some units apart and attention is uneven.
    const auto random = [&](int64_t out, int64_t in) {
      return at::randn({out, in}, generator, at::kFloat) / std::sqrt(static_cast<double>(in));
    };
    embed = random(kVocab, kHidden) * 4.0;
    places = random(kPositions, kHidden) * 4.0;
    unembed = random(kVocab, kHidden) * 2.0;
    for (int64_t l = 0; l < kLayers; ++l) {
      const int64_t shared = kSharedHeads * kDim;
      layers.push_back({random(kHeads * kDim, kHidden) * 2.0, random(shared, kHidden) * 2.0,
                        random(shared, kHidden), random(kHidden, kHeads * kDim),
                        random(kWidth, kHidden) * 2.0, random(kWidth, kHidden) * 2.0,
                        random(kHidden, kWidth)});
    }
  }

  // --- behind a LiveHost -----------------------------------------------------------------------

  /// Without `cached` the host has no keys and values, and every step sees whole prompts.
  /// @param captured  steps may be captured
  Model host(bool cached = true, std::vector<int64_t> eos_ids = {}, bool captured = false) const {
    ModelInfo info;
    info.id = "live-test";
    info.shape = {kLayers, kWidth};
    info.hidden = kHidden;
    info.vocab = kVocab;
    info.max_positions = kPositions;
    info.eos_ids = std::move(eos_ids);
    for (int64_t l = 0; l < kLayers; ++l) {
      if (cached) info.cache.push_back({kSharedHeads, kDim, kDim});
      info.neuron_sites.push_back("layers." + std::to_string(l) + ".down");
    }
    info.residual_sites = true;
    info.layouts.room = true;
    const auto model = std::make_shared<LiveModel>(*this);
    auto forward = [model](const Step& s, Taps& taps) { return model->step(s, taps); };
    auto move = [model](c10::Device device) { model->to(device); };
    LiveWeights known{
        [model](int64_t l) { return Write{model->layers[static_cast<size_t>(l)].down, {}}; },
        [model] { return Readout{model->unembed, at::ones({kHidden}, model->unembed.options())}; }};
    return Model(std::make_unique<LiveHost>(std::move(info), forward, move, std::move(known),
                                            /*may_widen=*/true, captured));
  }

  /// Tensor by tensor, as a module of torch moves: what throws half-way leaves half of it moved.
  void to(c10::Device device) {
    for (at::Tensor* t : {&embed, &places, &unembed}) *t = t->to(device);
    for (Layer& l : layers) {
      for (at::Tensor* t : {&l.query, &l.key, &l.value, &l.out, &l.gate, &l.up, &l.down})
        *t = t->to(device);
    }
  }

  at::Tensor step(const Step& s, Taps& taps) const {
    const int64_t total = s.mask.size(1);
    const at::Tensor to = s.write_places();
    at::Tensor x = at::embedding(embed, s.ids) + at::embedding(places, s.positions);
    // A token sees the real tokens up to its own place in the buffers; padding sees what it likes.
    const at::Tensor later = at::arange(total, s.ids.options()) > to.unsqueeze(1);
    const at::Tensor hidden = s.mask.eq(0).unsqueeze(1).logical_or(later).unsqueeze(1);
    const at::Tensor mask =
        at::zeros(hidden.sizes(), x.options()).masked_fill(hidden, -1e30);  // [rows, 1, new, total]
    for (int64_t l = 0; l < kLayers; ++l) {
      const Layer& layer = layers[static_cast<size_t>(l)];
      const at::Tensor n = normed(x);
      const auto heads = [&](const at::Tensor& weight) {
        return at::linear(n, weight).unflatten(2, {-1, kDim}).transpose(1, 2);
      };
      at::Tensor key = heads(layer.key), value = heads(layer.value);
      if (!s.cache.empty()) {
        const at::Tensor& keys = s.cache[static_cast<size_t>(2 * l)];
        const at::Tensor& values = s.cache[static_cast<size_t>(2 * l + 1)];
        key = keys.index_copy_(2, to, key), value = values.index_copy_(2, to, value);
      }
      const at::Tensor seen = at::scaled_dot_product_attention(
          heads(layer.query), key.repeat_interleave(kHeads / kSharedHeads, 1),
          value.repeat_interleave(kHeads / kSharedHeads, 1), mask);
      x = x + at::linear(seen.transpose(1, 2).flatten(2), layer.out);
      const at::Tensor m = normed(x);
      const at::Tensor a = at::silu(at::linear(m, layer.gate)) * at::linear(m, layer.up);
      const at::Tensor down = at::linear(taps.apply(a, taps.slot(Site::neuron, l)), layer.down);
      x = x + taps.apply(down, taps.slot(Site::mlp_output, l));
      x = taps.apply(x, taps.slot(Site::residual, l));
    }
    return at::linear(normed(x).index_select(1, s.keep), unembed);
  }

  // --- the reference ---------------------------------------------------------------------------

  /// Changes an activation [tokens, features] of one site and layer; none: leaves all as they are.
  using Edit = std::function<at::Tensor(Site site, int64_t layer, const at::Tensor& a)>;

  struct Pass {
    at::Tensor sites[kSites];  ///< last token's activations [layers, features], after the edit
    at::Tensor logits;         ///< [tokens, vocab]
  };

  /// All in float64.
  Pass run(const TokenIds& ids, const Edit& edit = {}) const {
    const auto tokens = static_cast<int64_t>(ids.size());
    std::vector<at::Tensor> seen[kSites];
    const auto touch = [&](Site site, int64_t layer, const at::Tensor& a) {
      const at::Tensor b = edit ? edit(site, layer, a) : a;
      seen[static_cast<int>(site)].push_back(b[tokens - 1]);
      return b;
    };
    at::Tensor x = embed.index_select(0, at::tensor(ids, at::kLong)).to(at::kDouble) +
                   places.narrow(0, 0, tokens).to(at::kDouble);
    for (int64_t l = 0; l < kLayers; ++l) {
      const Layer& layer = layers[static_cast<size_t>(l)];
      const at::Tensor n = unit(x);
      std::vector<at::Tensor> heads;
      for (int64_t h = 0; h < kHeads; ++h) {
        const at::Tensor q = head(n, layer.query, h), k = head(n, layer.key, h / 2),
                         v = head(n, layer.value, h / 2);
        const at::Tensor score = (q.matmul(k.t()) / 2.0).exp().tril();  // 2 is the root of kDim
        heads.push_back((score / score.sum(1, true)).matmul(v));
      }
      x = x + at::cat(heads, 1).matmul(layer.out.to(at::kDouble).t());
      const at::Tensor m = unit(x), gate = m.matmul(layer.gate.to(at::kDouble).t());
      const at::Tensor a = gate / ((-gate).exp() + 1.0) * m.matmul(layer.up.to(at::kDouble).t());
      const at::Tensor out = touch(Site::neuron, l, a).matmul(layer.down.to(at::kDouble).t());
      x = touch(Site::residual, l, x + touch(Site::mlp_output, l, out));
    }
    Pass pass;
    for (int site = 0; site < kSites; ++site) pass.sites[site] = at::stack(seen[site]);
    pass.logits = unit(x).matmul(unembed.to(at::kDouble).t());
    return pass;
  }

  /// The next `most` greedy tokens; the whole text runs again for each.
  TokenIds answer(TokenIds text, int64_t most, const Edit& edit = {}) const {
    const auto begin = static_cast<std::ptrdiff_t>(text.size());
    for (int64_t n = 0; n < most; ++n)
      text.push_back(run(text, edit).logits[-1].argmax().item<int64_t>());
    return {text.begin() + begin, text.end()};
  }

 private:
  static at::Tensor normed(const at::Tensor& x) {
    return x * at::rsqrt(x.square().mean(-1, true) + 1e-6);
  }
  static at::Tensor unit(const at::Tensor& x) {
    return x / (x.pow(2).sum(1, true) / static_cast<double>(x.size(1)) + 1e-6).sqrt();
  }
  static at::Tensor head(const at::Tensor& n, const at::Tensor& weight, int64_t h) {
    return n.matmul(weight.narrow(0, h * kDim, kDim).to(at::kDouble).t());
  }
};

/// The one model that the tests share.
inline const LiveModel& weights() {
  at::set_num_threads(1);  // tensors of this size wait longer for threads than they compute
  static const LiveModel model;
  return model;
}

/// Four of its neurons, in both layers.
inline const Circuit kFourNeurons({LiveModel::kLayers, LiveModel::kWidth},
                                  {{0, 3, 4.0}, {1, 7, -3.0}, {1, 20, 2.0}, {0, 11, -1.0}});

}  // namespace cna::test
