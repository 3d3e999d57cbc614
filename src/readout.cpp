#include "cna/error.hpp"
#include "cna/torch/host.hpp"

namespace cna {
namespace {

[[noreturn]] void throw_unknown(const ModelInfo& model) {
  throw_error(
      "contribution: expected a model that knows its write vectors, got '{}', which came without; "
      "export it again with cna.export(format='torchscript'), or run it with cna.live",
      model.id);
}

}  // namespace

Write Host::write(int64_t /*layer*/) { throw_unknown(info_); }
Readout Host::readout() { throw_unknown(info_); }

}  // namespace cna
