#include "cna/torch/recorder.hpp"

#include <ATen/ATen.h>

#include "cna/error.hpp"

namespace cna {
namespace {

void require_finite(const at::Tensor& activations, std::span<const int64_t> rows) {
  const at::Tensor finite = activations.isfinite();
  if (finite.all().item<bool>()) return;
  const at::Tensor where = finite.logical_not().nonzero()[0].to(at::kCPU);
  throw_error(
      "record: expected finite activations, got NaN or infinity at prompt {}, layer {}; use a "
      "wider dtype (float32 or bfloat16)",
      rows[static_cast<size_t>(where[0].item<int64_t>())], where[1].item<int64_t>());
}

}  // namespace

void record(Model& model, std::span<const TokenIds> prompts, Site site, const RunOptions& options,
            const RecordSink& sink) {
  Run run("record", model, prompts, options);
  if (site == Site::residual && !run.info().residual_sites)
    throw_value_error(
        "record: expected a model whose residual stream was found, got one where it was "
        "not; record site 'mlp_output' instead");
  c10::InferenceMode guard;
  int64_t done = 0;
  for (const Batch& batch : run.batches()) {
    run.report(done, static_cast<int64_t>(prompts.size()));
    run.steer(batch.rows);
    const at::Tensor last = at::full({1}, batch.ids.size(1) - 1, batch.ids.options());
    const Step step = run.first_step(batch, run.cache(batch.rows, batch.mask.size(1)), last);
    Taps& taps = run.host().taps();
    taps.record(site);
    if (site == Site::neuron)
      run.host().run_to_last_tap(step);
    else
      run.host().logits(step);
    std::vector<at::Tensor> layers = taps.take_recorded();
    for (size_t layer = 0; layer < layers.size(); ++layer) {
      if (!layers[layer].defined())
        throw_error(
            "record: expected a tap in every layer, got none in layer {}; check the pattern",
            layer);
      layers[layer] = layers[layer].to(run.info().device);
    }
    const at::Tensor activations = at::stack(layers, 1).to(at::kFloat);
    taps.record(std::nullopt);
    const int64_t features = site == Site::neuron ? run.info().shape.width : run.info().hidden;
    if (activations.size(0) != static_cast<int64_t>(batch.rows.size()) ||
        activations.size(2) != features)
      throw_error(
          "record: expected activations of {} prompts x {} features, got {} x {}; this "
          "architecture lays them out in another way, run it with cna.live",
          batch.rows.size(), features, activations.size(0), activations.size(2));
    require_finite(activations, batch.rows);
    sink(batch.rows, activations);
    done += static_cast<int64_t>(batch.rows.size());
  }
  run.report(done, static_cast<int64_t>(prompts.size()));
}

at::Tensor record_all(Model& model, std::span<const TokenIds> prompts, Site site,
                      const RunOptions& options) {
  const ModelInfo& info = model.info();
  at::Tensor out = at::empty({static_cast<int64_t>(prompts.size()), info.shape.layers,
                              site == Site::neuron ? info.shape.width : info.hidden},
                             at::kFloat);
  record(
      model, prompts, site, options, [&](std::span<const int64_t> rows, const at::Tensor& batch) {
        out.index_copy_(0, at::tensor(at::ArrayRef<int64_t>(rows.data(), rows.size()), at::kLong),
                        batch.to(at::kCPU));
      });
  return out;
}

}  // namespace cna
