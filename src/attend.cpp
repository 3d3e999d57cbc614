#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <torch/library.h>

#include <array>
#include <limits>
#include <vector>

#include "cpu_loops.hpp"

namespace cna {
namespace {

/// Queries of a step above which torch's blocked attention is as fast as loops over its places.
constexpr int64_t kFewTokens = 96;
/// Queries whose scores are computed side by side: a key is read once for all.
constexpr int64_t kTogether = 4;

#if defined(CNA_HAS_LANES)
/// One head of keys and values of a row, and the queries of the heads that share it.
struct Head {
  const float *q, *k, *v, *mask;
  float* out;
  int64_t groups, places, dim, value_dim;
  int64_t room;  // floats between the scores of two queries
  struct Strides {
    int64_t head, token;
  } of_q, of_out;
  int64_t of_k, of_v, of_mask;  // from place to place, and from token to token
  float scale;
};

/// Scores of N queries with the keys of some places, [N, places].
template <int N>
CNA_INLINED void score(const Head& h, const std::array<const float*, kTogether>& q, int64_t first,
                       int64_t end, float* CNA_APART to) {
  for (int64_t place = first; place < end; ++place) {
    const float* CNA_APART key = h.k + place * h.of_k;
    Lanes sums[N] = {};
    for (int64_t d = 0; d < h.dim; d += kLanes) {
      Lanes some;
      load(key + d, some);
      for (int i = 0; i < N; ++i) {
        Lanes mine;
        load(q[i] + d, mine);
        sums[i] += mine * some;
      }
    }
    for (int i = 0; i < N; ++i) {
      const Lanes& s = sums[i];
      const float sum = ((s[0] + s[4]) + (s[1] + s[5])) + ((s[2] + s[6]) + (s[3] + s[7]));
      to[i * h.room + place] = sum * h.scale;
    }
  }
}

/// Scores plus their mask as weights that add up to 1, or are all 0 where the mask leaves nothing,
/// as torch has it. Scores behind the last are written to, up to a whole number of lanes.
CNA_FOR_EACH_CPU void soften(const float* CNA_APART mask, float* CNA_APART scores, int64_t n) {
  constexpr float least = -std::numeric_limits<float>::infinity();
  Lanes some, more, most = Lanes{} + least;
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    load(scores + i, some), load(mask + i, more);
    some += more;
    most = some > most ? some : most;
    store(some, scores + i);
  }
  float largest = least;
  for (; i < n; ++i) largest = std::max(largest, scores[i] += mask[i]);
  for (; i % kLanes != 0; ++i) scores[i] = least;
  for (int64_t lane = 0; lane < kLanes; ++lane) largest = std::max(largest, most[lane]);
  if (largest == least) largest = 0;  // nothing is seen, or all is NaN and stays so
  Lanes sums{};
  for (i = 0; i < n; i += kLanes) {
    load(scores + i, some);
    some -= largest;
    exp_of(some);
    sums += some;
    store(some, scores + i);
  }
  float sum = 0;
  for (int64_t lane = 0; lane < kLanes; ++lane) sum += sums[lane];
  const float by = sum == 0 ? 0.0F : 1.0F / sum;
  for (i = 0; i < n; ++i) scores[i] *= by;
}

/// Sums of values by the weights of N queries, `Width` lanes of features from `d` on.
template <int N, int Width>
CNA_INLINED void mix_lanes(const Head& h, const float* CNA_APART weights, int64_t first,
                           int64_t end, int64_t d, const std::array<float*, kTogether>& to) {
  Lanes sums[N][Width] = {};
  for (int64_t place = first; place < end; ++place) {
    Lanes value[Width];
    for (int w = 0; w < Width; ++w) load(h.v + place * h.of_v + d + w * kLanes, value[w]);
    for (int i = 0; i < N; ++i)
      for (int w = 0; w < Width; ++w) sums[i][w] += weights[i * h.room + place] * value[w];
  }
  for (int i = 0; i < N; ++i)
    for (int w = 0; w < Width; ++w) store(sums[i][w], to[i] + d + w * kLanes);
}

template <int N>
CNA_INLINED void mix(const Head& h, const float* CNA_APART weights, int64_t first, int64_t end,
                     const std::array<float*, kTogether>& to) {
  int64_t d = 0;
  for (; d + 2 * kLanes <= h.value_dim; d += 2 * kLanes)
    mix_lanes<N, 2>(h, weights, first, end, d, to);
  for (; d + kLanes <= h.value_dim; d += kLanes) mix_lanes<N, 1>(h, weights, first, end, d, to);
}

/// N queries from number `query` on, which are counted by token, then by head. Places that none of
/// them sees, before the first or behind the last, would get a weight of 0: they are left out.
template <int N>
CNA_INLINED void attend_to_some(const Head& h, int64_t query, float* scores) {
  constexpr float unseen = std::numeric_limits<float>::lowest();
  std::array<const float*, kTogether> q{};
  std::array<const float*, kTogether> mask{};
  std::array<float*, kTogether> to{};
  int64_t first = h.places, end = 0;
  for (int i = 0; i < N; ++i) {
    const int64_t token = (query + i) / h.groups, head = (query + i) % h.groups;
    q[i] = h.q + head * h.of_q.head + token * h.of_q.token;
    to[i] = h.out + head * h.of_out.head + token * h.of_out.token;
    mask[i] = h.mask + token * h.of_mask;
    int64_t from = 0, behind = h.places;
    while (behind > from && mask[i][behind - 1] <= unseen) --behind;
    while (from < behind && mask[i][from] <= unseen) ++from;
    if (from == behind) from = 0, behind = h.places;  // padding sees nothing, or all a little
    first = std::min(first, from), end = std::max(end, behind);
  }
  score<N>(h, q, first, end, scores);
  for (int i = 0; i < N; ++i) soften(mask[i] + first, scores + i * h.room + first, end - first);
  mix<N>(h, scores, first, end, to);
}

/// The queries of tokens `from` to `end`; `scores` has room for those of kTogether.
CNA_FOR_EACH_CPU void attend_to(const Head& h, int64_t from, int64_t end, float* scores) {
  int64_t query = from * h.groups;
  const int64_t last = end * h.groups;
  for (; query + kTogether <= last; query += kTogether) attend_to_some<kTogether>(h, query, scores);
  switch (last - query) {
    case 3:
      return attend_to_some<3>(h, query, scores);
    case 2:
      return attend_to_some<2>(h, query, scores);
    case 1:
      return attend_to_some<1>(h, query, scores);
    default:
      return;
  }
}

/// Attention of a few tokens, in loops over the places: no copies of queries, keys or masks. A
/// quarter to three fifths of the time of torch's own (docs/hosts.md).
at::Tensor attend_few(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                      const at::Tensor& mask, double scale) {
  constexpr int64_t tokens_a_task = 16;
  const int64_t rows = q.size(0), heads = q.size(1), tokens = q.size(2), places = k.size(2);
  const int64_t shared = k.size(1), groups = heads / shared;
  const int64_t tasks = (tokens + tokens_a_task - 1) / tokens_a_task;
  const at::Tensor out = at::empty({rows, tokens, heads, v.size(3)}, q.options());
  const Head first{.q = q.const_data_ptr<float>(),
                   .k = k.const_data_ptr<float>(),
                   .v = v.const_data_ptr<float>(),
                   .mask = mask.const_data_ptr<float>(),
                   .out = out.mutable_data_ptr<float>(),
                   .groups = groups,
                   .places = places,
                   .dim = q.size(3),
                   .value_dim = v.size(3),
                   .room = places + kLanes,
                   .of_q = {q.stride(1), q.stride(2)},
                   .of_out = {out.stride(2), out.stride(1)},
                   .of_k = k.stride(2),
                   .of_v = v.stride(2),
                   .of_mask = mask.stride(2),
                   .scale = static_cast<float>(scale)};
  const int64_t pairs = groups * std::min(tokens, tokens_a_task) * places;
  const int64_t grain = rows_a_thread(pairs * q.size(3) / 4);  // as products of elements go
  at::parallel_for(0, rows * shared * tasks, grain, [&](int64_t begin, int64_t end) {
    std::vector<float> scores(static_cast<size_t>(kTogether * first.room));
    for (int64_t i = begin; i < end; ++i) {
      const int64_t row = i / (shared * tasks), head = i / tasks % shared, task = i % tasks;
      Head h = first;
      h.q += row * q.stride(0) + head * groups * q.stride(1);
      h.k += row * k.stride(0) + head * k.stride(1);
      h.v += row * v.stride(0) + head * v.stride(1);
      h.mask += mask.size(0) == 1 ? 0 : row * mask.stride(0);
      h.out += row * out.stride(0) + head * groups * out.stride(2);
      attend_to(h, task * tokens_a_task, std::min(tokens, (task + 1) * tokens_a_task),
                scores.data());
    }
  });
  return out.transpose(1, 2);
}

bool has_rows(const at::Tensor& x) {
  return x.scalar_type() == at::kFloat && x.device().is_cpu() && x.dim() == 4 && x.stride(3) == 1 &&
         x.numel() > 0;
}

/// Whether `attend_few` takes them.
bool are_few(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
             const at::Tensor& mask) {
  return has_rows(q) && has_rows(k) && has_rows(v) && has_rows(mask) && q.size(2) <= kFewTokens &&
         q.size(3) == k.size(3) && q.size(3) % kLanes == 0 && v.size(3) % kLanes == 0 &&
         k.size(2) == v.size(2) && k.size(1) == v.size(1) && q.size(0) == k.size(0) &&
         q.size(0) == v.size(0) && mask.size(1) == 1 && mask.size(2) == q.size(2) &&
         mask.size(3) == k.size(2) && (mask.size(0) == 1 || mask.size(0) == q.size(0)) &&
         q.size(1) % k.size(1) == 0;
}
#endif

/// One head of keys and values for each group of heads of q, without copies of it: its rows stand
/// in for batches and its group for heads. The mask [rows or 1, 1, tokens, places].
at::Tensor attend_grouped(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                          const at::Tensor& mask, double scale) {
  const int64_t rows = q.size(0), heads = k.size(1), groups = q.size(1) / heads;
  const int64_t tokens = q.size(2), places = k.size(2);
  const auto of_group = [&](const at::Tensor& x) {
    return x.view({rows * heads, 1, places, x.size(3)}).expand({-1, groups, -1, -1});
  };
  const at::Tensor queries = q.contiguous().view({rows * heads, groups, tokens, q.size(3)});
  const at::Tensor of_head =
      mask.size(0) == 1 ? mask : mask.unsqueeze(1).expand({-1, heads, -1, -1, -1}).flatten(0, 1);
  const at::Tensor out = at::scaled_dot_product_attention(queries, of_group(k), of_group(v),
                                                          of_head, 0.0, false, scale);
  // [rows, tokens, heads of q, dim] in memory, as the output projection reads it.
  return out.view({rows, heads, groups, tokens, v.size(3)})
      .permute({0, 3, 1, 2, 4})
      .reshape({rows, tokens, heads * groups, v.size(3)})
      .transpose(1, 2);
}

/// Attention of q [rows, heads, tokens, dim] over k and v [rows, heads / groups, places, dim].
at::Tensor attend(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                  const at::Tensor& mask, double scale) {
#if defined(CNA_HAS_LANES)
  if (are_few(q, k, v, mask)) return attend_few(q, k, v, mask, scale);
#endif
  const int64_t groups = q.size(1) / k.size(1);
  if (groups == 1) return at::scaled_dot_product_attention(q, k, v, mask, 0.0, false, scale);
  const auto by_row = [](const at::Tensor& x) {
    return x.stride(3) == 1 && x.stride(0) == x.size(1) * x.stride(1);
  };
  const bool masked_by_row = mask.dim() == 4 && mask.size(1) == 1;
  if (by_row(k) && by_row(v) && masked_by_row && q.device().is_cpu())
    return attend_grouped(q, k, v, mask, scale);
  return at::scaled_dot_product_attention(q, k.repeat_interleave(groups, 1),
                                          v.repeat_interleave(groups, 1), mask, 0.0, false, scale);
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(cna, m) {
  m.def("attend(Tensor q, Tensor k, Tensor v, Tensor mask, float scale) -> Tensor");
  m.impl("attend", c10::DispatchKey::CompositeExplicitAutograd, TORCH_FN(attend));
}

}  // namespace cna
