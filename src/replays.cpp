#include "replays.hpp"

#include <ATen/ATen.h>

#include <algorithm>
#include <bit>
#include <mutex>
#include <utility>

#include "cna/error.hpp"
#include "step_error.hpp"

namespace cna {
namespace {

constexpr int64_t kPlaces = 64;  // of a bucket: a multiple of these

/// The same tensor with `rows` rows in memory of its own; [1, ...] stays so.
at::Tensor with_rows(const at::Tensor& edit, int64_t rows) {
  if (!edit.defined()) return {};
  std::vector<int64_t> sizes = edit.sizes().vec();
  if (sizes[0] > 1) sizes[0] = rows;
  return at::zeros(sizes, edit.options());
}

bool takes(const at::Tensor& kept, const at::Tensor& fresh) {
  if (kept.defined() != fresh.defined()) return false;
  if (!kept.defined()) return true;
  return kept.dtype() == fresh.dtype() && kept.sizes().slice(1) == fresh.sizes().slice(1) &&
         (kept.size(0) == 1 ? fresh.size(0) == 1 : fresh.size(0) <= kept.size(0));
}

bool takes(const std::vector<TapEdit>& kept, const std::vector<TapEdit>& fresh) {
  return std::equal(kept.begin(), kept.end(), fresh.begin(), fresh.end(),
                    [](const TapEdit& a, const TapEdit& b) {
                      return a.slot == b.slot && a.last == b.last && takes(a.scale, b.scale) &&
                             takes(a.shift, b.shift);
                    });
}

void put(const at::Tensor& kept, const at::Tensor& fresh) {
  if (!kept.defined()) return;
  if (kept.size(0) == 1 || fresh.size(0) > 1)
    kept.narrow(0, 0, fresh.size(0)).copy_(fresh);
  else
    kept.copy_(fresh.expand_as(kept));
}

/// While it lives, the taps have other edits.
class OtherEdits {
 public:
  OtherEdits(Taps& taps, const std::vector<TapEdit>& now, const std::vector<TapEdit>& then)
      : taps_(taps), then_(then) {
    taps_.set_edits(now);
  }
  ~OtherEdits() { taps_.set_edits(then_); }
  OtherEdits(const OtherEdits&) = delete;
  OtherEdits& operator=(const OtherEdits&) = delete;

 private:
  Taps& taps_;
  const std::vector<TapEdit>& then_;
};

}  // namespace

void Bucket::feed(const at::Tensor& ids, const at::Tensor& positions, int64_t place) {
  step.ids.narrow(0, 0, ids.size(0)).copy_(ids);
  step.positions.narrow(0, 0, ids.size(0)).copy_(positions);
  step.places.fill_(place);
}

std::shared_ptr<Bucket> Replays::bucket(int64_t rows, int64_t places) {
  rows = static_cast<int64_t>(std::bit_ceil(static_cast<uint64_t>(rows)));
  places = (places + kPlaces - 1) / kPlaces * kPlaces;
  std::shared_ptr<Bucket> fit;
  for (const auto& made : buckets_)
    if (made->rows == rows && made->places >= places && (!fit || made->places < fit->places))
      fit = made;
  if (fit) return fit;
  forget([&](const Bucket& made) { return made.rows == rows; });  // too small from now on
  try {
    fit = make(rows, places);
  } catch (const OutOfMemory&) {
    if (forget([](const Bucket&) { return true; }) == 0) throw;
    fit = make(rows, places);
  }
  return buckets_.emplace_back(std::move(fit));
}

template <class Which>
size_t Replays::forget(const Which& which) {
  return std::erase_if(buckets_,
                       [&](const auto& made) { return made.use_count() == 1 && which(*made); });
}

std::shared_ptr<Bucket> Replays::make(int64_t rows, int64_t places) const {
  const ModelInfo& info = host_.info();
  const auto longs = at::TensorOptions(at::kLong).device(info.device);
  Step step{at::zeros({rows, 1}, longs),
            at::ones({rows, places}, longs),
            at::zeros({rows, 1}, longs),
            at::zeros({1}, longs),
            {},
            at::zeros({1}, longs)};
  try {
    for (size_t layer = 0; layer < info.cache.size(); ++layer)
      for (const int64_t dim : {info.cache[layer].key_dim, info.cache[layer].value_dim})
        step.cache.push_back(
            at::zeros({rows, info.cache[layer].heads, places, dim},
                      at::TensorOptions(info.dtype).device(info.cache_device(layer))));
  } catch (const std::exception& error) {
    throw_allocation_error(rows, places, error);
  }
  return std::make_shared<Bucket>(Bucket{rows, places, std::move(step), {}, -1, {}, false, {}});
}

void Replays::capture(Bucket& bucket) try {
  static std::mutex one;  // torch captures one piece of work at a time in a process
  const std::lock_guard lock(one);
  bucket.captured =
      capture_(host_.info().device, [&] { bucket.logits = host_.logits(bucket.step); });
} catch (const Interrupted&) {
  throw;
} catch (const OutOfMemory&) {
  throw;
} catch (const std::exception& error) {
  throw_error(
      "{}: expected a device that captures a step of {} rows and {} places, got '{}'; load "
      "the model without capture",
      function_, bucket.rows, bucket.places, first_line(error));
}

at::Tensor Replays::run(Bucket& bucket, const std::vector<TapEdit>& edits, int64_t steering) {
  if (bucket.steering != steering) {
    if (!takes(bucket.edits, edits)) {  // other operators: what was captured is of no use
      bucket.captured.reset();
      bucket.edits = edits;
      for (TapEdit& edit : bucket.edits) {
        edit.scale = with_rows(edit.scale, bucket.rows);
        edit.shift = with_rows(edit.shift, bucket.rows);
      }
    }
    for (size_t i = 0; i < edits.size(); ++i)
      put(bucket.edits[i].scale, edits[i].scale), put(bucket.edits[i].shift, edits[i].shift);
    bucket.steering = steering;
  }
  if (!bucket.captured) {
    const OtherEdits held(host_.taps(), bucket.edits, edits);
    if (!std::exchange(bucket.warm, true)) return bucket.logits = host_.logits(bucket.step);
    capture(bucket);
  }
  bucket.captured->replay();
  return bucket.logits;
}

}  // namespace cna
