#include <ATen/ATen.h>

#include "catch.hpp"
#include "cna/moments.hpp"
#include "cna/neuron.hpp"

TEST_CASE("Moments: tensors and Eigen arrays give the same from one source") {
  const at::Tensor samples = at::randn({7, 3, 4}, at::kDouble);
  cna::Moments<at::Tensor> tensor;
  cna::Moments<cna::Grid> grid;
  for (int64_t i = 0; i < samples.size(0); ++i) {
    const at::Tensor sample = samples[i].contiguous();
    tensor.add(sample);
    grid.add(Eigen::Map<const cna::Grid>(sample.data_ptr<double>(), 3, 4));
  }
  const auto same = [](const at::Tensor& t, const cna::Grid& g) {
    const at::Tensor c = t.contiguous();
    return (Eigen::Map<const cna::Grid>(c.data_ptr<double>(), 3, 4) - g).abs().maxCoeff() < 1e-14;
  };
  CHECK(same(tensor.mean(), grid.mean()));
  CHECK(same(tensor.m2(), grid.m2()));
  CHECK(same(samples.mean(0), grid.mean()));
  CHECK(same(samples.var(0), grid.variance()));
}

TEST_CASE("Moments: a batch of tensors merges as its samples do") {
  const at::Tensor samples = at::randn({9, 2, 5}, at::kDouble);
  cna::Moments<at::Tensor> one_by_one, merged;
  for (int64_t i = 0; i < 9; ++i) one_by_one.add(samples[i]);
  for (const auto& part : samples.split(4)) {
    const at::Tensor mean = part.mean(0);
    merged.merge(cna::Moments<at::Tensor>::of(part.size(0), mean, (part - mean).square().sum(0)));
  }
  CHECK(merged.count() == 9);
  CHECK(at::allclose(merged.mean(), one_by_one.mean(), 0, 1e-14));
  CHECK(at::allclose(merged.m2(), one_by_one.m2(), 0, 1e-12));
}
