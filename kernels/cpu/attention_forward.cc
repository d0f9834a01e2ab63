// Forward: keys and values of every (document, kv head) are packed once; then each (document, head,
// query block) runs over its key blocks with an online softmax. Documents of one query (decoding)
// read keys and values where they lie, one item a (document, kv head).
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/attention_forward.cc"
#include "hwy/foreach_target.h"
// foreach_target first: it includes this file once per target.
#include <omp.h>

#include <cmath>
#include <limits>

#include "kernels/cpu/attention-inl.h"
#include "kernels/cpu/attention.h"

#ifndef PLAIT_KERNELS_CPU_ATTENTION_FORWARD_JOB_
#define PLAIT_KERNELS_CPU_ATTENTION_FORWARD_JOB_
namespace plait::cpu {
namespace {

struct ForwardJob {
  const AttentionForwardArgs& args;
  const AttentionPlan& plan;
  std::vector<AttentionItem> key_blocks, query_blocks, single_queries;
  float* transposed_keys = nullptr;  // panels [head_dim, panel]
  float* values = nullptr;           // a key block at a time, panels [keys, panel]
  float* scratch = nullptr;          // [num_threads, scratch_floats]
  int64_t scratch_floats = 0;
  int num_threads = 1;
};

}  // namespace
}  // namespace plait::cpu
#endif

HWY_BEFORE_NAMESPACE();
namespace plait::cpu::HWY_NAMESPACE {
namespace {

// One row of the online softmax.
struct RunningSoftmax {
  float largest = std::numeric_limits<float>::lowest();
  float total = 0;
};

// Replaces scores[0, visible) by exp(score - largest) with the largest score so far, and [visible,
// filled) by zeros. Scales what was summed under the former largest score: the total and
// sums[0, padded_columns).
inline void UpdateSoftmax(float* scores, int64_t visible, int64_t filled, RunningSoftmax& state,
                          float* sums, int64_t padded_columns) {
  const F32Tag d;
  const int64_t lanes = NumLanes();
  if (visible == 0) {
    std::fill_n(scores, filled, 0.0f);
    return;
  }
  const int64_t whole = visible / lanes * lanes;
  const auto rest = hn::FirstN(d, static_cast<size_t>(visible - whole));
  auto maxima = hn::Set(d, state.largest);
  for (int64_t c = 0; c < whole; c += lanes) maxima = hn::Max(maxima, hn::LoadU(d, scores + c));
  if (whole < visible)
    maxima = hn::Max(maxima, hn::IfThenElse(rest, hn::LoadU(d, scores + whole), maxima));
  const float largest = hn::GetLane(hn::MaxOfLanes(d, maxima));

  if (largest != state.largest) {
    const auto factor = ExpOfNonPositive(d, hn::Set(d, state.largest - largest));
    state.total *= hn::GetLane(factor);
    for (int64_t n = 0; n < padded_columns; n += lanes)
      hn::StoreU(hn::Mul(hn::LoadU(d, sums + n), factor), d, sums + n);
    state.largest = largest;
  }
  const auto shift = hn::Set(d, largest);
  auto totals = hn::Zero(d);
  int64_t c = 0;
  for (; c < whole; c += lanes) {
    const auto p = ExpOfNonPositive(d, hn::Sub(hn::LoadU(d, scores + c), shift));
    hn::StoreU(p, d, scores + c);
    totals = hn::Add(totals, p);
  }
  if (c < visible) {
    const auto p =
        hn::IfThenElseZero(rest, ExpOfNonPositive(d, hn::Sub(hn::LoadU(d, scores + c), shift)));
    hn::StoreU(p, d, scores + c);
    totals = hn::Add(totals, p);
    c += lanes;
  }
  for (; c < filled; c += lanes) hn::StoreU(hn::Zero(d), d, scores + c);
  state.total += hn::GetLane(hn::SumOfLanes(d, totals));
}

// keys: how many the query saw. Without any, the sums are 0 and so is their total.
void FinishRow(const AttentionForwardArgs& args, int64_t head, int64_t t, int64_t keys,
               const RunningSoftmax& state, const float* sums) {
  const int64_t dim = args.layout.head_dim;
  WithElementType(args.out.dtype, [&](auto element) {
    using T = decltype(element);
    const float scale = keys == 0 ? 0.0f : 1.0f / state.total;
    StoreRow(sums, dim, scale, args.out.row<T>(t) + head * dim);
  });
  if (args.log_sum_exp)
    args.log_sum_exp.row<float>(head)[t] = state.largest + std::log(state.total);
}

template <class T>
void ForwardQueryBlock(const ForwardJob& job, const AttentionItem& item, float* scratch) {
  const AttentionPlan& plan = job.plan;
  const AttentionForwardArgs& args = job.args;
  const int64_t s = item.document, dim = plan.layout.head_dim, kv_head = item.head / plan.group;
  const int64_t first = plan.layout.query_offsets[s] + item.begin;
  const int64_t columns = RoundUp(dim, NumLanes());
  float* q = scratch;                                    // [kQueryBlock, padded_dim]
  float* sums = q + kQueryBlock * plan.padded_dim;       // [kQueryBlock, padded_dim]
  float* scores = sums + kQueryBlock * plan.padded_dim;  // [kQueryBlock, kKeyBlock]

  const int64_t rows = std::min(kQueryBlock, plan.Queries(s) - item.begin);
  RunningSoftmax states[kQueryBlock];
  std::fill_n(sums, kQueryBlock * plan.padded_dim, 0.0f);
  for (int64_t r = 0; r < rows; ++r) {
    LoadRow(args.q.row<T>(first + r) + item.head * dim, dim, static_cast<float>(plan.layout.scale),
            q + r * plan.padded_dim);
  }
  const int64_t visible = plan.VisibleKeys(s, item.begin + rows);  // to the last row
  for (int64_t begin = 0; begin < visible; begin += kKeyBlock) {
    const Tile tile(plan, s, item.begin, begin);
    const int64_t packed = plan.PackedKey(kv_head, s, begin);
    MultiplyByKeys(tile, q, plan.padded_dim, job.transposed_keys + packed * dim, dim, scores);
    for (int64_t r = 0; r < rows; ++r) {
      UpdateSoftmax(scores + r * kKeyBlock, tile.Visible(r),
                    tile.Filled(r / kTileRows * kTileRows, plan.panel), states[r],
                    sums + r * plan.padded_dim, columns);
    }
    const Panels values = {job.values + packed * plan.padded_dim, tile.columns * plan.panel,
                           plan.panel};
    AddWeightedKeys(tile, scores, values, columns, sums, plan.padded_dim);
  }
  for (int64_t r = 0; r < rows; ++r)
    FinishRow(args, item.head, first + r, visible, states[r], sums + r * plan.padded_dim);
}

// scores[c] = q . k[begin + c] for `count` keys of one head.
template <class T>
void DotWithKeys(const AttentionForwardArgs& args, const float* q, int64_t begin, int64_t count,
                 int64_t column, float* scores) {
  const F32Tag d;
  const int64_t lanes = NumLanes(), dim = args.layout.head_dim, whole = dim / lanes * lanes;
  for (int64_t c = 0; c < count; ++c) {
    const T* k = args.k.row<T>(begin + c) + column;
    auto even = hn::Zero(d), odd = hn::Zero(d);
    int64_t i = 0;
    for (; i + 2 * lanes <= whole; i += 2 * lanes) {
      even = hn::MulAdd(hn::LoadU(d, q + i), LoadF32(d, k + i), even);
      odd = hn::MulAdd(hn::LoadU(d, q + i + lanes), LoadF32(d, k + i + lanes), odd);
    }
    if (i < whole) {
      even = hn::MulAdd(hn::LoadU(d, q + i), LoadF32(d, k + i), even);
      i += lanes;
    }
    if (i < dim) {
      const auto rest = LoadF32N(d, k + i, static_cast<size_t>(dim - i));
      odd = hn::MulAdd(hn::LoadU(d, q + i), rest, odd);
    }
    scores[c] = hn::GetLane(hn::SumOfLanes(d, hn::Add(even, odd)));
  }
}

// sums[:] += sum_c weights[c] v[begin + c, :] for `count` keys of one head.
template <class T>
void AddWeightedValues(const AttentionForwardArgs& args, const float* weights, int64_t begin,
                       int64_t count, int64_t column, float* sums) {
  const F32Tag d;
  const int64_t lanes = NumLanes(), dim = args.layout.head_dim;
  int64_t i = 0;
  for (; i + 4 * lanes <= dim; i += 4 * lanes) {
    auto s0 = hn::LoadU(d, sums + i), s1 = hn::LoadU(d, sums + i + lanes);
    auto s2 = hn::LoadU(d, sums + i + 2 * lanes), s3 = hn::LoadU(d, sums + i + 3 * lanes);
    for (int64_t c = 0; c < count; ++c) {
      const T* v = args.v.row<T>(begin + c) + column + i;
      const auto weight = hn::Set(d, weights[c]);
      s0 = hn::MulAdd(weight, LoadF32(d, v), s0);
      s1 = hn::MulAdd(weight, LoadF32(d, v + lanes), s1);
      s2 = hn::MulAdd(weight, LoadF32(d, v + 2 * lanes), s2);
      s3 = hn::MulAdd(weight, LoadF32(d, v + 3 * lanes), s3);
    }
    hn::StoreU(s0, d, sums + i);
    hn::StoreU(s1, d, sums + i + lanes);
    hn::StoreU(s2, d, sums + i + 2 * lanes);
    hn::StoreU(s3, d, sums + i + 3 * lanes);
  }
  for (; i < dim; i += lanes) {
    const auto width = static_cast<size_t>(std::min(lanes, dim - i));
    auto sum = hn::LoadU(d, sums + i);
    for (int64_t c = 0; c < count; ++c) {
      const T* v = args.v.row<T>(begin + c) + column + i;
      const auto value = width == hn::Lanes(d) ? LoadF32(d, v) : LoadF32N(d, v, width);
      sum = hn::MulAdd(hn::Set(d, weights[c]), value, sum);
    }
    hn::StoreU(sum, d, sums + i);
  }
}

// One query of every head of the group; a block of keys serves all of them while it is in cache.
template <class T>
void ForwardSingleQuery(const ForwardJob& job, const AttentionItem& item, float* scratch) {
  const AttentionPlan& plan = job.plan;
  const AttentionForwardArgs& args = job.args;
  const int64_t s = item.document, dim = plan.layout.head_dim, keys = plan.Keys(s);
  const int64_t t = plan.layout.query_offsets[s], column = item.head * dim;
  const int64_t columns = RoundUp(dim, NumLanes());
  float* q = scratch;                                    // [group, padded_dim]
  float* sums = q + plan.group * plan.padded_dim;        // [group, padded_dim]
  float* states = sums + plan.group * plan.padded_dim;   // [group, 2]
  float* scores = states + RoundUp(2 * plan.group, 16);  // [kKeyBlock]

  for (int64_t i = 0; i < plan.group; ++i) {
    LoadRow(args.q.row<T>(t) + (item.head * plan.group + i) * dim, dim,
            static_cast<float>(plan.layout.scale), q + i * plan.padded_dim);
    states[2 * i] = RunningSoftmax().largest;
    states[2 * i + 1] = 0;
  }
  std::fill_n(sums, plan.group * plan.padded_dim, 0.0f);
  for (int64_t begin = 0; begin < keys; begin += kKeyBlock) {
    const int64_t count = std::min(kKeyBlock, keys - begin);
    const int64_t first = plan.layout.key_offsets[s] + begin;
    for (int64_t i = 0; i < plan.group; ++i) {
      RunningSoftmax state = {states[2 * i], states[2 * i + 1]};
      DotWithKeys<T>(args, q + i * plan.padded_dim, first, count, column, scores);
      UpdateSoftmax(scores, count, count, state, sums + i * plan.padded_dim, columns);
      AddWeightedValues<T>(args, scores, first, count, column, sums + i * plan.padded_dim);
      states[2 * i] = state.largest;
      states[2 * i + 1] = state.total;
    }
  }
  for (int64_t i = 0; i < plan.group; ++i) {
    FinishRow(args, item.head * plan.group + i, t, keys, {states[2 * i], states[2 * i + 1]},
              sums + i * plan.padded_dim);
  }
}

template <class T>
void RunForward(const ForwardJob& job) {
  const AttentionPlan& plan = job.plan;
  const auto num_key_blocks = static_cast<int64_t>(job.key_blocks.size());
  const auto num_query_blocks = static_cast<int64_t>(job.query_blocks.size());
  const auto num_single = static_cast<int64_t>(job.single_queries.size());
#pragma omp parallel num_threads(job.num_threads)
  {
    float* scratch = job.scratch + omp_get_thread_num() * job.scratch_floats;
#pragma omp for schedule(dynamic)
    for (int64_t i = 0; i < num_key_blocks; ++i) {
      const AttentionItem& item = job.key_blocks[i];
      const int64_t begin = plan.layout.key_offsets[item.document] + item.begin;
      const int64_t count = std::min(kKeyBlock, plan.Keys(item.document) - item.begin);
      const int64_t packed = plan.PackedKey(item.head, item.document, item.begin);
      const int64_t dim = plan.layout.head_dim, column = item.head * dim;
      PackTransposed<T>(job.args.k, begin, count, column, plan, job.transposed_keys + packed * dim);
      PackPanels<T>(job.args.v, begin, count, column, plan, job.values + packed * plan.padded_dim);
    }
#pragma omp for schedule(dynamic) nowait
    for (int64_t i = 0; i < num_query_blocks; ++i)
      ForwardQueryBlock<T>(job, job.query_blocks[i], scratch);
#pragma omp for schedule(dynamic)
    for (int64_t i = 0; i < num_single; ++i)
      ForwardSingleQuery<T>(job, job.single_queries[i], scratch);
  }
}

}  // namespace

void AttentionForwardAny(const ForwardJob& job) {
  if (job.args.q.dtype == DType::kF32) return RunForward<float>(job);
  RunForward<BFloat16>(job);
}
int64_t AttentionForwardPanel() { return 2 * NumLanes(); }

// NOLINTNEXTLINE(google-readability-namespace-comments)
}  // namespace plait::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace plait::cpu {
namespace {

HWY_EXPORT(AttentionForwardAny);
HWY_EXPORT(AttentionForwardPanel);

}  // namespace

std::string AcceptsAttentionForward(const AttentionForwardArgs& args) {
  return args.q.dtype == DType::kF64 ? "f64" : "";
}

absl::Status AttentionForward(Execution& execution, const AttentionForwardArgs& args) {
  const AttentionPlan plan(args.layout, HWY_DYNAMIC_DISPATCH(AttentionForwardPanel)());
  ForwardJob job = {.args = args, .plan = plan, .num_threads = execution.num_threads()};
  const auto many = [&](int64_t s) { return plan.Queries(s) > 1; };
  job.key_blocks = KeyBlockItems(plan, many);
  job.query_blocks = QueryBlockItems(plan, many);
  SortByWork(job.query_blocks);
  for (int64_t s = 0; s < args.layout.documents; ++s) {
    if (plan.Queries(s) != 1) continue;
    for (int64_t g = 0; g < args.layout.kv_heads; ++g)
      job.single_queries.push_back({s, g, 0, static_cast<double>(plan.Keys(s))});
  }
  SortByWork(job.single_queries);

  Tensor packed;
  if (!job.key_blocks.empty()) {
    const int64_t keys = plan.PackedKeys();
    packed = execution.Empty(DType::kF32, {keys * (args.layout.head_dim + plan.padded_dim)});
    job.values = packed.data<float>();
    job.transposed_keys = job.values + keys * plan.padded_dim;
  }
  // The layouts of ForwardQueryBlock and ForwardSingleQuery.
  job.scratch_floats =
      RoundUp(std::max(kQueryBlock * (2 * plan.padded_dim + kKeyBlock),
                       2 * plan.group * plan.padded_dim + RoundUp(2 * plan.group, 16) + kKeyBlock),
              16);
  Tensor scratch = execution.Empty(DType::kF32, {job.num_threads, job.scratch_floats});
  job.scratch = scratch.data<float>();
  HWY_DYNAMIC_DISPATCH(AttentionForwardAny)(job);
  return absl::OkStatus();
}

}  // namespace plait::cpu
#endif  // HWY_ONCE
