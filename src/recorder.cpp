#include "cna/torch/recorder.hpp"

#include <ATen/ATen.h>

#include <algorithm>

#include "batch_limits.hpp"
#include "cna/error.hpp"
#include "cna/torch/tap.hpp"
#include "finite.hpp"
#include "openings.hpp"
#include "run.hpp"
#include "step_error.hpp"

namespace cna {
namespace {

/// One layer of a batch as its accumulators get it.
struct Recorded {
  Site site;
  int64_t layer;
  at::Tensor activations;
};

void require_finite(const std::vector<Recorded>& parts, std::span<const int64_t> rows) {
  std::vector<at::Tensor> finite;  // one read of the device for the whole batch
  for (const Recorded& part : parts) finite.push_back(part.activations.isfinite().all(1));
  const at::Tensor good = at::stack(finite).to(at::kCPU);  // [parts, rows]
  if (good.all().item<bool>()) return;
  // The first prompt that went wrong, and the first layer where it did.
  const at::Tensor first = good.logical_not().t().nonzero()[0];
  throw_as<NonFinite>(
      "record: expected finite activations, got NaN or infinity at prompt {}, layer {}; use a "
      "wider dtype (float32 or bfloat16)",
      rows[static_cast<size_t>(first[0].item<int64_t>())],
      parts[static_cast<size_t>(first[1].item<int64_t>())].layer);
}

/// Runs one batch; the recordings of all wanted sites, by site, then layer.
/// @param logits  where to put those behind each prompt, float32 [rows, vocab]; null: not wanted
std::vector<Recorded> run_batch(Run& run, const Batch& batch, std::span<const Site> sites,
                                at::Tensor* logits) {
  const auto rows = static_cast<int64_t>(batch.rows.size());
  const at::Tensor last = at::full({1}, batch.ids.size(1) - 1, batch.ids.options());
  const Step step = run.first_step(batch, run.cache(batch.rows, batch.mask.size(1)), last);
  Taps& taps = run.host().taps();
  taps.record(sites);
  const auto early = [](Site s) { return s == Site::neuron; };
  if (logits == nullptr && std::all_of(sites.begin(), sites.end(), early)) {
    run.host().run_to_last_tap(step);
  } else {
    const at::Tensor out = run.logits(step).select(1, 0);
    if (logits != nullptr) *logits = out.to(run.info().device, at::kFloat);
  }
  std::vector<at::Tensor> slots = taps.take_recorded();
  taps.record({});
  std::vector<Recorded> out;
  for (const Site site : sites) {
    const int64_t features = run.info().features(site);
    for (int64_t layer = 0; layer < run.info().shape.layers; ++layer) {
      at::Tensor activations = std::move(slots[static_cast<size_t>(taps.slot(site, layer))]);
      const int64_t neurons = run.info().shape.width_of(layer);
      if (neurons == 0 && site != Site::residual)  // a block without an MLP
        activations = at::zeros({rows, features}, batch.ids.options().dtype(at::kFloat));
      if (!activations.defined())
        throw_error(
            "record: expected a tap in every layer, got none in layer {}; check the pattern",
            layer);
      const int64_t mine = site == Site::neuron && neurons > 0 ? neurons : features;
      if (activations.size(0) != rows || activations.size(1) != mine)
        throw_error(
            "record: expected activations of {} prompts x {} features, got {} x {}; this "
            "architecture lays them out in another way, run it as a live model",
            rows, mine, activations.size(0), activations.size(1));
      activations = activations.to(run.info().device, at::kFloat);
      if (mine < features) activations = at::constant_pad_nd(activations, {0, features - mine});
      out.push_back({site, layer, std::move(activations)});
    }
  }
  return out;
}

/// Prompts that are recorded as a job of their own; empty: all of them.
struct Part {
  std::vector<int64_t> numbers = {};
  std::vector<TokenIds> prompts = {};

  [[nodiscard]] int64_t number_of(int64_t row) const {
    return numbers.empty() ? row : numbers[static_cast<size_t>(row)];
  }
};

std::vector<Part> parts_of(Model& model, std::span<const TokenIds> prompts,
                           const RunOptions& options) {
  const ModelInfo& info = model.info();
  const bool shares = options.share_prefix && options.arm_of_prompt.empty() && info.has_cache() &&
                      info.layouts.share_prefix;
  std::vector<Part> out;
  if (shares) {
    require_prompts("record", prompts, info.vocab, info.max_positions);
    auto cut = parts_by_opening(prompts, batch_limits(info, options, 0).overhead);
    for (size_t i = 0; cut.size() > 1 && i < cut.size(); ++i) {
      Part part{std::move(cut[i]), {}};
      for (const int64_t row : part.numbers)
        part.prompts.push_back(prompts[static_cast<size_t>(row)]);
      out.push_back(std::move(part));
    }
  }
  if (out.empty()) out.emplace_back();
  return out;
}

/// Puts the layers of a batch together for a sink that wants them all.
class Together {
 public:
  explicit Together(const RecordSink& sink) : sink_(sink) {}

  void add(int64_t /*layer*/, std::span<const int64_t> prompts, const at::Tensor& activations) {
    prompts_.assign(prompts.begin(), prompts.end());
    layers_.push_back(activations);
  }
  void end_batch() {
    sink_(prompts_, at::stack(layers_, 1));
    layers_.clear();
  }

 private:
  const RecordSink& sink_;
  std::vector<int64_t> prompts_;
  std::vector<at::Tensor> layers_;
};

template <class A>
void record_at(Model& model, std::span<const TokenIds> prompts, Site site,
               const RunOptions& options, A& accumulator) {
  switch (site) {
    case Site::neuron:
      return record(model, prompts, options, at<Site::neuron>(accumulator));
    case Site::mlp_output:
      return record(model, prompts, options, at<Site::mlp_output>(accumulator));
    case Site::residual:
      return record(model, prompts, options, at<Site::residual>(accumulator));
  }
}

}  // namespace

namespace detail {

void record_layers(Model& model, std::span<const TokenIds> prompts, std::span<const Site> wanted,
                   const RunOptions& options, LayerSink& sink) try {
  std::vector<Site> sites(wanted.begin(), wanted.end());
  std::sort(sites.begin(), sites.end());
  sites.erase(std::unique(sites.begin(), sites.end()), sites.end());
  if (!sites.empty() && sites.back() == Site::residual && !model.info().residual_sites)
    throw_value_error(
        "record: expected a model whose residual stream was found, got one where it was "
        "not; record site 'mlp_output' instead");
  c10::InferenceMode guard;
  const auto all = static_cast<int64_t>(prompts.size());
  int64_t done = 0;
  for (const Part& part : parts_of(model, prompts, options)) {
    Run run("record", model, part.prompts.empty() ? prompts : std::span(part.prompts), options);
    for (Batch& batch : run.batches()) {
      run.report(done, all);
      run.steer(batch.rows);
      at::Tensor logits;
      std::vector<Recorded> found =
          run_batch(run, batch, sites, sink.wants_logits() ? &logits : nullptr);
      for (int64_t& row : batch.rows) row = part.number_of(row);
      require_finite(found, batch.rows);
      for (Recorded& layer : found) {
        sink.take(layer.site, layer.layer, batch.rows, layer.activations);
        layer.activations = at::Tensor();  // no layer stays longer than it is needed
      }
      if (logits.defined()) {
        const at::Tensor bad = meaningless(logits).to(at::kCPU);
        for (size_t i = 0; i < batch.rows.size(); ++i)
          if (bad.data_ptr<bool>()[i]) throw_meaningless("record", batch.rows[i], 0);
        sink.take_logits(batch.rows, logits);
      }
      sink.end_batch();
      done += static_cast<int64_t>(batch.rows.size());
    }
    run.report(done, all);
  }
} catch (const std::exception& error) {
  rethrow("record", error);
}

}  // namespace detail

void record(Model& model, std::span<const TokenIds> prompts, Site site, const RunOptions& options,
            const RecordSink& sink) {
  Together together(sink);
  record_at(model, prompts, site, options, together);
}

at::Tensor record_all(Model& model, std::span<const TokenIds> prompts, Site site,
                      const RunOptions& options) {
  const ModelInfo& info = model.info();
  at::Tensor out = at::empty(
      {static_cast<int64_t>(prompts.size()), info.shape.layers, info.features(site)}, at::kFloat);
  record(model, prompts, site, options,  // all layers of a batch leave the device together
         [&](std::span<const int64_t> rows, const at::Tensor& activations) {
           const at::Tensor index =
               at::tensor(at::ArrayRef<int64_t>(rows.data(), rows.size()), at::kLong);
           out.index_copy_(0, index, activations.to(at::kCPU));
         });
  return out;
}

}  // namespace cna
