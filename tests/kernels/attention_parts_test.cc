// Attention cut into several calls equals one call: by queries (with the keys of their documents
// gathered) and by keys (with partial results joined).
#include <algorithm>
#include <vector>

#include "base/status_macros.h"
#include "kernels/attention.h"
#include "kernels/attention_merge.h"
#include "tests/kernels/attention_case.h"
#include "tests/support/device_execution.h"
#include "tests/support/simd_targets.h"
#include "tests/support/status_matchers.h"

namespace plait {
namespace {

// One call over some rows of a whole case.
struct Part {
  int64_t query_begin, key_begin;
  AttentionCase c;
};

Part MakePart(const AttentionCase& whole, int64_t query_begin, int64_t key_begin,
              const Lengths& lengths) {
  const DType dtype = whole.q.dtype();
  Part part{query_begin, key_begin,
            AttentionCase(lengths, whole.sizes, dtype, StatisticsDType(dtype))};
  AttentionCase& c = part.c;
  c.q = whole.q.Slice(query_begin, query_begin + c.tokens());
  c.dout = whole.dout.Slice(query_begin, query_begin + c.tokens());
  c.k = whole.k.Slice(key_begin, key_begin + c.key_tokens());
  c.v = whole.v.Slice(key_begin, key_begin + c.key_tokens());
  return part;
}

// The queries [begin, end) of packed documents, each with all keys up to its own end: from the
// start of the document that is open at `begin`.
Part QuerySegment(const AttentionCase& whole, int64_t begin, int64_t end) {
  std::vector<int32_t> queries, keys;
  int64_t first_key = end;
  for (size_t s = 0; s + 1 < whole.query_offsets.size(); ++s) {
    const int64_t document = whole.query_offsets[s];
    const int64_t document_end = std::min<int64_t>(end, whole.query_offsets[s + 1]);
    if (document_end <= begin || document >= end) continue;
    first_key = std::min(first_key, document);
    queries.push_back(static_cast<int32_t>(document_end - std::max(begin, document)));
    keys.push_back(static_cast<int32_t>(document_end - document));
  }
  return MakePart(whole, begin, first_key, Lengths(queries, keys));
}

// The queries [begin, end) that belong to the document open at `begin`, and its keys in
// [key_begin, key_end), which all come before: an earlier segment.
Part KeySegment(const AttentionCase& whole, int64_t begin, int64_t end, int64_t key_begin,
                int64_t key_end) {
  int32_t queries = 0, keys = 0;
  for (size_t s = 0; s + 1 < whole.query_offsets.size(); ++s) {
    const int64_t document = whole.query_offsets[s], document_end = whole.query_offsets[s + 1];
    if (document > begin || document_end <= begin) continue;
    queries = static_cast<int32_t>(std::min(end, document_end) - begin);
    keys = static_cast<int32_t>(std::max<int64_t>(0, key_end - std::max(key_begin, document)));
  }
  return MakePart(whole, begin, key_end - keys, Lengths({queries}, {keys}, AttentionMask::kNone));
}

// The own keys of the segment [begin, end).
Part OwnSegment(const AttentionCase& whole, int64_t begin, int64_t end) {
  std::vector<int32_t> lengths;
  for (size_t s = 0; s + 1 < whole.query_offsets.size(); ++s) {
    const int64_t from = std::clamp<int64_t>(whole.query_offsets[s], begin, end);
    const int64_t to = std::clamp<int64_t>(whole.query_offsets[s + 1], begin, end);
    if (to > from) lengths.push_back(static_cast<int32_t>(to - from));
  }
  return MakePart(whole, begin, begin, Lengths(lengths, lengths));
}

// to[begin ..) += rows, in double.
void AddRows(Tensor& to, int64_t begin, const Tensor& rows) {
  const Tensor values = rows.Converted(DType::kF64);
  double* out = to.data<double>() + begin * to.shape()[1];
  for (int64_t i = 0; i < values.num_elements(); ++i) out[i] += values.data<double>()[i];
}

struct Sums {
  explicit Sums(const AttentionCase& whole)
      : out(Tensor::OnHost(DType::kF64, whole.q.shape())),
        dq(Tensor::OnHost(DType::kF64, whole.q.shape())),
        dk(Tensor::OnHost(DType::kF64, whole.k.shape())),
        dv(Tensor::OnHost(DType::kF64, whole.k.shape())) {}
  Tensor out, dq, dk, dv;
};

// `execution` waits for its device before the host reads on.
absl::Status RunForward(Execution& execution, const AttentionForwardArgs& args) {
  PLAIT_RETURN_IF_ERROR(AttentionForward(execution, args));
  return execution.compute().Synchronize();
}
absl::Status RunBackward(Execution& execution, const AttentionBackwardArgs& args) {
  PLAIT_RETURN_IF_ERROR(AttentionBackward(execution, args));
  return execution.compute().Synchronize();
}

// Runs the part's backward with the whole's out and log_sum_exp, and adds its gradients.
void AddBackward(Execution& execution, AttentionCase& whole, Part& part, Sums& sums) {
  AttentionBackwardArgs args = part.c.backward();
  const Tensor out = whole.out.Slice(part.query_begin, part.query_begin + part.c.tokens());
  args.out = out.matrix();
  args.log_sum_exp = whole.log_sum_exp.columns(part.query_begin, part.c.tokens());
  ASSERT_OK(RunBackward(execution, args));
  AddRows(sums.dq, part.query_begin, part.c.dq);
  AddRows(sums.dk, part.key_begin, part.c.dk);
  AddRows(sums.dv, part.key_begin, part.c.dv);
}

// Documents that cross one boundary, several and none.
const std::vector<int32_t> kDocuments = {5, 60, 1, 130, 20, 4};  // 220 rows
constexpr Heads kHeads = {.heads = 4, .kv_heads = 2, .head_dim = 12};

// f64: sums in another order. f32: each call is off by the bounds of attention_test.cc, here with
// rows of norm 3.5 at most (12 elements below 1, q and k below 2), scores off by 13 roundings of
// 15, up to 130 keys and 260 queries that see a key, and a factor 4 for the sums over parts.
double Tolerance(DType dtype) {
  return dtype == DType::kF64 ? 1e-12 : 4 * (13 * 15 + 260) * RoundingError(DType::kF32);
}

void ExpectQuerySegmentsAddUp(Execution& execution, DType dtype, int num_parts) {
  SCOPED_TRACE(testing::Message() << Name(dtype) << " " << num_parts << " parts");
  AttentionCase whole(kDocuments, kHeads, dtype);
  ASSERT_OK(RunForward(execution, whole.forward()));
  ASSERT_OK(RunBackward(execution, whole.backward()));
  Sums sums(whole);
  for (int i = 0; i < num_parts; ++i) {
    Part part = QuerySegment(whole, 220 * i / num_parts, 220 * (i + 1) / num_parts);
    ASSERT_OK(RunForward(execution, part.c.forward()));
    AddRows(sums.out, part.query_begin, part.c.out);
    AddBackward(execution, whole, part, sums);
  }
  ExpectClose("out", sums.out, whole.out, Tolerance(dtype));
  ExpectClose("dq", sums.dq, whole.dq, Tolerance(dtype));
  ExpectClose("dk", sums.dk, whole.dk, Tolerance(dtype));
  ExpectClose("dv", sums.dv, whole.dv, Tolerance(dtype));
}

TEST(AttentionPartsTest, SegmentsOfQueriesAddUpToTheWhole) {
  Execution cpu({.num_threads = 2});
  for (const int num_parts : {1, 2, 3, 4, 7}) ExpectQuerySegmentsAddUp(cpu, DType::kF64, num_parts);
  ForEachSimdTarget([&] { ExpectQuerySegmentsAddUp(cpu, DType::kF32, 4); });
}

TEST(AttentionPartsTest, SegmentsOfQueriesAddUpToTheWholeOnADevice) {
  for (const DType dtype : {DType::kF64, DType::kF32}) {
    for (const int num_parts : {1, 3}) ExpectQuerySegmentsAddUp(*CudaExecution(), dtype, num_parts);
  }
}

// Own keys first, then those of earlier segments, as they travel around a ring.
void ExpectKeySegmentsAddUp(Execution& execution, DType dtype, int num_parts) {
  SCOPED_TRACE(testing::Message() << Name(dtype) << " " << num_parts << " parts");
  AttentionCase whole(kDocuments, kHeads, dtype);
  ASSERT_OK(RunForward(execution, whole.forward()));
  ASSERT_OK(RunBackward(execution, whole.backward()));
  Sums sums(whole);
  const auto bound = [&](int i) { return static_cast<int64_t>(220 * i / num_parts); };
  for (int i = 0; i < num_parts; ++i) {
    Part own = OwnSegment(whole, bound(i), bound(i + 1));
    ASSERT_OK(RunForward(execution, own.c.forward()));
    AddBackward(execution, whole, own, sums);
    for (int j = i - 1; j >= 0; --j) {
      Part part = KeySegment(whole, bound(i), bound(i + 1), bound(j), bound(j + 1));
      ASSERT_OK(RunForward(execution, part.c.forward()));
      Tensor out = own.c.out.Slice(0, part.c.tokens());
      ASSERT_OK(
          AttentionMerge(execution, {.out = out.matrix(),
                                     .log_sum_exp = own.c.log_sum_exp.columns(0, part.c.tokens()),
                                     .added_out = part.c.out.matrix(),
                                     .added_log_sum_exp = part.c.log_sum_exp.matrix()}));
      AddBackward(execution, whole, part, sums);
    }
    AddRows(sums.out, bound(i), own.c.out);
    for (int64_t h = 0; h < kHeads.heads; ++h) {
      for (int64_t t = 0; t < own.c.tokens(); ++t) {
        const auto at = [&](const Tensor& x, int64_t column) {
          return x.Converted(DType::kF64).data<double>()[h * x.shape()[1] + column];
        };
        EXPECT_NEAR(at(own.c.log_sum_exp, t), at(whole.log_sum_exp, bound(i) + t),
                    Tolerance(dtype));
      }
    }
  }
  ExpectClose("out", sums.out, whole.out, Tolerance(dtype));
  ExpectClose("dq", sums.dq, whole.dq, Tolerance(dtype));
  ExpectClose("dk", sums.dk, whole.dk, Tolerance(dtype));
  ExpectClose("dv", sums.dv, whole.dv, Tolerance(dtype));
}

TEST(AttentionPartsTest, SegmentsOfKeysAddUpToTheWhole) {
  Execution cpu({.num_threads = 2});
  for (const int num_parts : {2, 3, 4}) ExpectKeySegmentsAddUp(cpu, DType::kF64, num_parts);
  ForEachSimdTarget([&] { ExpectKeySegmentsAddUp(cpu, DType::kF32, 4); });
}

TEST(AttentionPartsTest, SegmentsOfKeysAddUpToTheWholeOnADevice) {
  for (const DType dtype : {DType::kF64, DType::kF32}) {
    for (const int num_parts : {1, 3}) ExpectKeySegmentsAddUp(*CudaExecution(), dtype, num_parts);
  }
}

}  // namespace
}  // namespace plait
