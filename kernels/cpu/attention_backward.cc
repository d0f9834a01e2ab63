// Backward: keys and values of every (document, kv head) are packed once. A tile recomputes its
// probabilities from log_sum_exp and adds to the sums of its keys (dk, dv) or of its queries (dq)
// or of both. Two ways to order the tiles:
//   together: one item a (document, kv head) takes key blocks one by one, within each the group's
//     heads and their query blocks, and computes every tile once;
//   apart: one item a key block for dk and dv, one item a query block for dq: more and smaller
//     items for threads, but tiles are computed twice (seven products instead of five).
// Either way dk and dv of a key sum over (head, query block) and dq of a query over key blocks, in
// the same order and with the same tiles, so that the choice changes no bit.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/attention_backward.cc"
#include "hwy/foreach_target.h"
// foreach_target first: it includes this file once per target.
#include <omp.h>

#include "kernels/cpu/attention-inl.h"
#include "kernels/cpu/attention.h"

#ifndef PLAIT_KERNELS_CPU_ATTENTION_BACKWARD_JOB_
#define PLAIT_KERNELS_CPU_ATTENTION_BACKWARD_JOB_
namespace plait::cpu {
namespace {

struct BackwardJob {
  const AttentionBackwardArgs& args;
  const AttentionPlan& plan;
  std::vector<AttentionItem> packing;                   // key blocks
  std::vector<AttentionItem> together;                  // whole (document, kv head)
  std::vector<AttentionItem> key_blocks, query_blocks;  // instead of `together`
  float* transposed_keys = nullptr;                     // panels [head_dim, panel]
  float* transposed_values = nullptr;                   // panels [head_dim, panel]
  float* keys = nullptr;     // a key block at a time, panels [keys, panel]
  float* scratch = nullptr;  // [num_threads, scratch_floats]
  int64_t scratch_floats = 0;
  int num_threads = 1;
};

// A thread's memory. dq: query_rows rows, those of one block or of a group's whole document.
struct BackwardScratch {
  static int64_t Floats(const AttentionPlan& plan, int64_t query_rows) {
    return plan.padded_dim * (2 * kQueryBlock + 2 * kKeyBlock + query_rows) +
           2 * kQueryBlock * kKeyBlock;
  }
  BackwardScratch(const AttentionPlan& plan, float* memory)
      : q(memory),
        dout(q + kQueryBlock * plan.padded_dim),
        dk(dout + kQueryBlock * plan.padded_dim),
        dv(dk + kKeyBlock * plan.padded_dim),
        p(dv + kKeyBlock * plan.padded_dim),
        ds(p + kQueryBlock * kKeyBlock),
        dq(ds + kQueryBlock * kKeyBlock) {}

  float* q;     // [kQueryBlock, padded_dim], times scale
  float* dout;  // [kQueryBlock, padded_dim]
  float* dk;    // [kKeyBlock, padded_dim]
  float* dv;    // [kKeyBlock, padded_dim]
  float* p;     // [kQueryBlock, kKeyBlock]
  float* ds;    // [kQueryBlock, kKeyBlock]
  float* dq;    // [query_rows, padded_dim]
  float log_sum_exp[kQueryBlock], dout_out[kQueryBlock];
};

}  // namespace
}  // namespace plait::cpu
#endif

HWY_BEFORE_NAMESPACE();
namespace plait::cpu::HWY_NAMESPACE {
namespace {

// Row of the tile: scores become probabilities, dp (the products dout . v) becomes dS / scale.
// Zeros from the last visible column to the end.
inline void BackwardRow(float* p, float* ds, int64_t visible, int64_t columns, float log_sum_exp,
                        float dout_out) {
  const F32Tag d;
  const int64_t lanes = NumLanes();
  const auto shift = hn::Set(d, log_sum_exp), mean = hn::Set(d, dout_out);
  int64_t c = 0;
  for (; c + lanes <= visible; c += lanes) {
    const auto weight = ExpOfNonPositive(d, hn::Sub(hn::LoadU(d, p + c), shift));
    hn::StoreU(weight, d, p + c);
    hn::StoreU(hn::Mul(weight, hn::Sub(hn::LoadU(d, ds + c), mean)), d, ds + c);
  }
  if (c < visible) {
    const auto rest = hn::FirstN(d, static_cast<size_t>(visible - c));
    const auto weight = ExpOfNonPositive(d, hn::Sub(hn::LoadU(d, p + c), shift));
    const auto product = hn::Mul(weight, hn::Sub(hn::LoadU(d, ds + c), mean));
    hn::StoreU(hn::IfThenElseZero(rest, weight), d, p + c);
    hn::StoreU(hn::IfThenElseZero(rest, product), d, ds + c);
    c += lanes;
  }
  for (; c < columns; c += lanes) {
    hn::StoreU(hn::Zero(d), d, p + c);
    hn::StoreU(hn::Zero(d), d, ds + c);
  }
}

// sum_i a[i] b[i].
template <class T>
float Dot(const T* a, const T* b, int64_t count) {
  const F32Tag d;
  const int64_t lanes = NumLanes();
  auto sum = hn::Zero(d);
  int64_t i = 0;
  for (; i + lanes <= count; i += lanes)
    sum = hn::MulAdd(LoadF32(d, a + i), LoadF32(d, b + i), sum);
  if (i < count) {
    const auto rest = static_cast<size_t>(count - i);
    sum = hn::MulAdd(LoadF32N(d, a + i, rest), LoadF32N(d, b + i, rest), sum);
  }
  return hn::GetLane(hn::SumOfLanes(d, sum));
}

// Reads the query block's rows into scratch.
template <class T>
void LoadQueries(const BackwardJob& job, int64_t s, int64_t head, int64_t begin,
                 BackwardScratch& scratch) {
  const AttentionPlan& plan = job.plan;
  const int64_t dim = plan.layout.head_dim, column = head * dim;
  const int64_t first = plan.layout.query_offsets[s] + begin;
  const int64_t rows = std::min(kQueryBlock, plan.Queries(s) - begin);
  for (int64_t r = 0; r < rows; ++r) {
    const T* dout = job.args.dout.row<T>(first + r) + column;
    LoadRow(job.args.q.row<T>(first + r) + column, dim, static_cast<float>(plan.layout.scale),
            scratch.q + r * plan.padded_dim);
    LoadRow(dout, dim, 1.0f, scratch.dout + r * plan.padded_dim);
    scratch.dout_out[r] = Dot(dout, job.args.out.row<T>(first + r) + column, dim);
    scratch.log_sum_exp[r] = job.args.log_sum_exp.row<float>(head)[first + r];
  }
}

// One tile of the query block in scratch. Adds to scratch.dk and scratch.dv where kForKeys, to dq
// [kQueryBlock, padded_dim] (not yet times scale) unless it is null.
template <bool kForKeys>
void BackwardTile(const BackwardJob& job, int64_t s, int64_t kv_head, int64_t query_begin,
                  int64_t key_begin, const BackwardScratch& scratch, float* dq) {
  const AttentionPlan& plan = job.plan;
  const int64_t dim = plan.layout.head_dim, stride = plan.padded_dim;
  const int64_t columns = RoundUp(dim, NumLanes());
  const Tile tile(plan, s, query_begin, key_begin);
  const int64_t packed = plan.PackedKey(kv_head, s, key_begin);

  MultiplyByKeys(tile, scratch.q, stride, job.transposed_keys + packed * dim, dim, scratch.p);
  MultiplyByKeys(tile, scratch.dout, stride, job.transposed_values + packed * dim, dim, scratch.ds);
  // Every column that AddWeightedQueries reads: whole rows of accumulators.
  const int64_t end = std::min(kKeyBlock, RoundUp(RoundUp(tile.columns, kTileRows), NumLanes()));
  for (int64_t r = 0; r < tile.rows; ++r) {
    BackwardRow(scratch.p + r * kKeyBlock, scratch.ds + r * kKeyBlock, tile.Visible(r), end,
                scratch.log_sum_exp[r], scratch.dout_out[r]);
  }
  if (kForKeys) {
    AddWeightedQueries(tile, scratch.p, {scratch.dout, plan.panel, stride}, columns, scratch.dv,
                       stride);
    // q in scratch holds the factor `scale`.
    AddWeightedQueries(tile, scratch.ds, {scratch.q, plan.panel, stride}, columns, scratch.dk,
                       stride);
  }
  if (dq != nullptr) {
    const Panels keys = {job.keys + packed * stride, tile.columns * plan.panel, plan.panel};
    AddWeightedKeys(tile, scratch.ds, keys, columns, dq, stride);
  }
}

void StoreRows(const float* rows, int64_t count, float scale, const MatrixView& to, int64_t first,
               int64_t column, const AttentionPlan& plan) {
  WithElementType(to.dtype, [&](auto element) {
    using T = decltype(element);
    for (int64_t r = 0; r < count; ++r) {
      StoreRow(rows + r * plan.padded_dim, plan.layout.head_dim, scale,
               to.row<T>(first + r) + column);
    }
  });
}

// dk and dv of one key block, and, where dq is not null, the block's part of the group's dq
// ([group, queries rounded up to blocks, padded_dim]).
template <class T>
void BackwardKeyBlock(const BackwardJob& job, int64_t s, int64_t kv_head, int64_t begin,
                      BackwardScratch& scratch, float* dq) {
  const AttentionPlan& plan = job.plan;
  const int64_t stride = plan.padded_dim, queries = plan.Queries(s);
  const int64_t first_block = plan.FirstQuery(s, begin) / kQueryBlock * kQueryBlock;
  std::fill_n(scratch.dk, kKeyBlock * stride, 0.0f);
  std::fill_n(scratch.dv, kKeyBlock * stride, 0.0f);
  for (int64_t i = 0; i < plan.group; ++i) {
    for (int64_t query = first_block; query < queries; query += kQueryBlock) {
      LoadQueries<T>(job, s, kv_head * plan.group + i, query, scratch);
      float* block =
          dq == nullptr ? nullptr : dq + (i * RoundUp(queries, kQueryBlock) + query) * stride;
      BackwardTile<true>(job, s, kv_head, query, begin, scratch, block);
    }
  }
  const int64_t first = plan.layout.key_offsets[s] + begin;
  const int64_t count = std::min(kKeyBlock, plan.Keys(s) - begin);
  const int64_t column = kv_head * plan.layout.head_dim;
  StoreRows(scratch.dk, count, 1.0f, job.args.dk, first, column, plan);
  StoreRows(scratch.dv, count, 1.0f, job.args.dv, first, column, plan);
}

template <class T>
void BackwardTogether(const BackwardJob& job, const AttentionItem& item, float* memory) {
  const AttentionPlan& plan = job.plan;
  BackwardScratch scratch(plan, memory);
  const int64_t s = item.document, queries = plan.Queries(s), dim = plan.layout.head_dim;
  const int64_t rows = RoundUp(queries, kQueryBlock);
  std::fill_n(scratch.dq, plan.group * rows * plan.padded_dim, 0.0f);
  for (int64_t begin = 0; begin < plan.Keys(s); begin += kKeyBlock)
    BackwardKeyBlock<T>(job, s, item.head, begin, scratch, scratch.dq);
  for (int64_t i = 0; i < plan.group; ++i) {
    StoreRows(scratch.dq + i * rows * plan.padded_dim, queries,
              static_cast<float>(plan.layout.scale), job.args.dq, plan.layout.query_offsets[s],
              (item.head * plan.group + i) * dim, plan);
  }
}

template <class T>
void BackwardQueryBlock(const BackwardJob& job, const AttentionItem& item, float* memory) {
  const AttentionPlan& plan = job.plan;
  BackwardScratch scratch(plan, memory);
  const int64_t s = item.document;
  const int64_t rows = std::min(kQueryBlock, plan.Queries(s) - item.begin);
  std::fill_n(scratch.dq, kQueryBlock * plan.padded_dim, 0.0f);
  LoadQueries<T>(job, s, item.head, item.begin, scratch);
  const int64_t visible = plan.VisibleKeys(s, item.begin + rows);  // to the last row
  for (int64_t begin = 0; begin < visible; begin += kKeyBlock) {
    BackwardTile<false>(job, s, item.head / plan.group, item.begin, begin, scratch, scratch.dq);
  }
  StoreRows(scratch.dq, rows, static_cast<float>(plan.layout.scale), job.args.dq,
            plan.layout.query_offsets[s] + item.begin, item.head * plan.layout.head_dim, plan);
}

template <class T>
void RunBackward(const BackwardJob& job) {
  const AttentionPlan& plan = job.plan;
  const auto num_packing = static_cast<int64_t>(job.packing.size());
  const auto num_together = static_cast<int64_t>(job.together.size());
  const auto num_key_blocks = static_cast<int64_t>(job.key_blocks.size());
  const auto num_query_blocks = static_cast<int64_t>(job.query_blocks.size());
#pragma omp parallel num_threads(job.num_threads)
  {
    float* memory = job.scratch + omp_get_thread_num() * job.scratch_floats;
#pragma omp for schedule(dynamic)
    for (int64_t i = 0; i < num_packing; ++i) {
      const AttentionItem& item = job.packing[i];
      const int64_t begin = plan.layout.key_offsets[item.document] + item.begin;
      const int64_t count = std::min(kKeyBlock, plan.Keys(item.document) - item.begin);
      const int64_t packed = plan.PackedKey(item.head, item.document, item.begin);
      const int64_t dim = plan.layout.head_dim, column = item.head * dim;
      PackTransposed<T>(job.args.k, begin, count, column, plan, job.transposed_keys + packed * dim);
      PackTransposed<T>(job.args.v, begin, count, column, plan,
                        job.transposed_values + packed * dim);
      PackPanels<T>(job.args.k, begin, count, column, plan, job.keys + packed * plan.padded_dim);
    }
#pragma omp for schedule(dynamic) nowait
    for (int64_t i = 0; i < num_together; ++i) BackwardTogether<T>(job, job.together[i], memory);
#pragma omp for schedule(dynamic) nowait
    for (int64_t i = 0; i < num_key_blocks; ++i) {
      const AttentionItem& item = job.key_blocks[i];
      BackwardScratch scratch(plan, memory);
      BackwardKeyBlock<T>(job, item.document, item.head, item.begin, scratch, nullptr);
    }
#pragma omp for schedule(dynamic)
    for (int64_t i = 0; i < num_query_blocks; ++i)
      BackwardQueryBlock<T>(job, job.query_blocks[i], memory);
  }
}

}  // namespace

void AttentionBackwardAny(const BackwardJob& job) {
  if (job.args.q.dtype == DType::kF32) return RunBackward<float>(job);
  RunBackward<BFloat16>(job);
}
int64_t AttentionBackwardPanel() { return 2 * NumLanes(); }

// NOLINTNEXTLINE(google-readability-namespace-comments)
}  // namespace plait::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace plait::cpu {
namespace {

HWY_EXPORT(AttentionBackwardAny);
HWY_EXPORT(AttentionBackwardPanel);

// Whether one item a (document, kv head), five products a tile, ends sooner than seven products
// spread evenly.
bool EndsSoonerTogether(const std::vector<AttentionItem>& together, int num_threads) {
  double total = 0, largest = 0;
  for (const AttentionItem& item : together) {
    total += item.work;
    largest = std::max(largest, item.work);
  }
  const double even = total / num_threads;
  return 5 * std::max(even, largest) <= 7 * even;
}

}  // namespace

std::string AcceptsAttentionBackward(const AttentionBackwardArgs& args) {
  return args.q.dtype == DType::kF64 ? "f64" : "";
}

absl::Status AttentionBackward(Execution& execution, const AttentionBackwardArgs& args) {
  const AttentionPlan plan(args.layout, HWY_DYNAMIC_DISPATCH(AttentionBackwardPanel)());
  BackwardJob job = {.args = args, .plan = plan, .num_threads = execution.num_threads()};
  const auto all = [](int64_t) { return true; };
  job.packing = KeyBlockItems(plan, [&](int64_t s) { return plan.Queries(s) > 0; });
  int64_t query_rows = kQueryBlock, longest = 0;
  for (int64_t s = 0; s < args.layout.documents; ++s) {
    const int64_t queries = plan.Queries(s);
    longest = std::max(longest, RoundUp(queries, kQueryBlock));
    // One without queries has dk and dv to clear.
    for (int64_t g = 0; g < args.layout.kv_heads; ++g)
      job.together.push_back({s, g, 0, static_cast<double>(queries * plan.Keys(s))});
  }
  if (EndsSoonerTogether(job.together, job.num_threads)) {
    SortByWork(job.together);
    query_rows = plan.group * longest;
  } else {
    job.together.clear();
    job.key_blocks = KeyBlockItems(plan, all);
    SortByWork(job.key_blocks);
    job.query_blocks = QueryBlockItems(plan, all);
    SortByWork(job.query_blocks);
  }

  const int64_t keys = plan.PackedKeys(), dim = args.layout.head_dim;
  Tensor packed = execution.Empty(DType::kF32, {keys * (2 * dim + plan.padded_dim)});
  job.keys = packed.data<float>();
  job.transposed_keys = job.keys + keys * plan.padded_dim;
  job.transposed_values = job.transposed_keys + keys * dim;
  job.scratch_floats = RoundUp(BackwardScratch::Floats(plan, query_rows), 16);
  Tensor scratch = execution.Empty(DType::kF32, {job.num_threads, job.scratch_floats});
  job.scratch = scratch.data<float>();
  HWY_DYNAMIC_DISPATCH(AttentionBackwardAny)(job);
  return absl::OkStatus();
}

}  // namespace plait::cpu
#endif  // HWY_ONCE
