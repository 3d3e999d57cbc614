#include "prefix_places.hpp"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <utility>

#include "cpu_loops.hpp"

namespace cna {
namespace {

bool has_rows(const at::Tensor& x) {
  return x.device().is_cpu() && x.layout() == at::kStrided && x.stride(3) == 1;
}

}  // namespace

PrefixPlaces::PrefixPlaces(std::vector<int64_t> arms, std::vector<int64_t> padding, int64_t begin,
                           int64_t end, int64_t prefix)
    : arms_(std::move(arms)),
      padding_(std::move(padding)),
      begin_(begin),
      end_(end),
      moved_(begin > 0 || end < prefix ||
             std::any_of(padding_.begin(), padding_.end(), [](int64_t n) { return n > 0; })) {}

/// [rows, heads, end - begin, dim], by torch's own indexing.
at::Tensor PrefixPlaces::gathered(const at::Tensor& filled, int64_t rows) {
  if (!arms_.empty() && (!arm_.defined() || arm_.device() != filled.device()))
    arm_ = at::tensor(arms_, at::kLong).unsqueeze(1).to(filled.device());
  if (!moved_)
    return arm_.defined() ? filled.index_select(0, arm_.squeeze(1))
                          : filled.expand({rows, -1, -1, -1});
  if (!token_.defined() || token_.device() != filled.device()) {
    const at::Tensor padding = at::tensor(padding_, at::kLong).unsqueeze(1);
    token_ = (at::arange(begin_, end_, at::kLong) - padding).clamp_min(0).to(filled.device());
  }
  const at::Tensor by_token = filled.transpose(1, 2);  // [arms, prefix, heads, dim]
  const at::Tensor own =
      arm_.defined() ? by_token.index({arm_, token_}) : by_token.select(0, 0).index({token_});
  return own.transpose(1, 2);
}

void PrefixPlaces::copy(const at::Tensor& filled, const at::Tensor& to) {
  const int64_t rows = to.size(0), heads = to.size(1);
  if (!has_rows(filled) || !has_rows(to) || filled.scalar_type() != to.scalar_type()) {
    to.copy_(gathered(filled, rows));
    return;
  }
  const auto size = static_cast<int64_t>(filled.element_size());
  const auto* from = static_cast<const std::byte*>(filled.const_data_ptr());
  auto* there = static_cast<std::byte*>(to.mutable_data_ptr());
  const auto bytes = static_cast<size_t>(to.size(3) * size);
  const int64_t grain = rows_a_thread((end_ - begin_) * to.size(3));
  at::parallel_for(0, rows * heads, grain, [&](int64_t first, int64_t last) {
    for (int64_t i = first; i < last; ++i) {
      const int64_t row = i / heads, head = i % heads;
      const int64_t arm = arms_.empty() ? 0 : arms_[static_cast<size_t>(row)];
      const int64_t padding = padding_[static_cast<size_t>(row)];
      const std::byte* source = from + (arm * filled.stride(0) + head * filled.stride(1)) * size;
      std::byte* target = there + (row * to.stride(0) + head * to.stride(1)) * size;
      for (int64_t place = begin_; place < end_; ++place)
        std::memcpy(target + (place - begin_) * to.stride(2) * size,
                    source + std::max<int64_t>(0, place - padding) * filled.stride(2) * size,
                    bytes);
    }
  });
}

}  // namespace cna
