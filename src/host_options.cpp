#include "host_options.hpp"

#include <ATen/ATen.h>

#include "cna/error.hpp"
#include "cna/torch/capture.hpp"
#include "packed.hpp"
#include "product_form.hpp"

namespace cna {

void require_precision(const HostOptions& options, at::ScalarType dtype) {
  if (options.precision == Precision::float32) return;
  if (!options.fuse || !options.device.is_cpu() || dtype != at::kFloat)
    throw_value_error(
        "load: expected a float32 export on a CPU, with fuse, for products in bfloat16, got {} on "
        "{}{}; leave the precision at float32",
        at::toString(dtype), options.device.str(), options.fuse ? "" : " without fuse");
  if (options.products.value_or(ProductForm::packed) != ProductForm::packed)
    throw_value_error(
        "load: expected packed weights for products in bfloat16, got {} ones; leave the form of "
        "products open",
        *options.products == ProductForm::plain ? "plain" : "unpacked");
  if (!can_multiply(options.precision))
    throw_value_error(
        "load: expected a processor with bfloat16 products, got none; leave the precision at "
        "float32");
}

void require_products(const HostOptions& options, at::ScalarType dtype) {
  if (!options.products || *options.products == ProductForm::plain) return;
  if (!options.fuse || !options.device.is_cpu() || dtype != at::kFloat)
    throw_value_error(
        "load: expected a float32 export on a CPU, with fuse, for a form of its products, got {} "
        "on {}{}; leave the form open",
        at::toString(dtype), options.device.str(), options.fuse ? "" : " without fuse");
  if (!has_form(*options.products, at::empty({1, 1}, at::kFloat)))
    throw_value_error(
        "load: expected a build of torch with oneDNN for packed weights, got one without; leave "
        "the "
        "form of products open");
}

void require_capture(const HostOptions& options, bool exported, const Manifest& manifest) {
  if (!options.capture) return;
  if (!exported || !manifest.layouts.room)
    throw_value_error(
        "load: expected an export whose buffers may have room behind the new tokens, to capture "
        "its steps, got {}; export the model again, or leave capture off",
        exported ? fmt::format("one of format_version {} without", manifest.step) : "a bare file");
  if (options.device.is_cpu())
    throw_value_error(
        "load: expected a device that captures steps, got {}; choose a GPU, or leave capture off",
        options.device.str());
  if (!capture_on(options.device.type()))
    throw_value_error(
        "load: expected a way to capture what runs on {}, got none; say one with set_capture, or "
        "leave capture off",
        options.device.str());
}

}  // namespace cna
