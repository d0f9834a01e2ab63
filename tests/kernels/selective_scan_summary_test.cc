#include "kernels/selective_scan_summary.h"

#include <utility>
#include <vector>

#include "kernels/reference/selective_scan_summary.h"
#include "kernels/selective_scan.h"
#include "tests/support/device_execution.h"
#include "tests/support/document_segments.h"
#include "tests/support/finite_differences.h"
#include "tests/support/random_tensor.h"
#include "tests/support/simd_targets.h"
#include "tests/support/status_matchers.h"
#include "tests/support/tensor_matchers.h"

namespace plait {
namespace {

using ::testing::HasSubstr;

struct Range {
  double low, high;
};

// The summaries of one part of a document, and a state to carry past it.
struct Case {
  Case(int64_t tokens, int64_t channels, int64_t states, DType dtype, Range dt_range = {-2, 2},
       Range a_log_range = {-1, 2})
      : inner(StatisticsDType(dtype)),
        xz(UniformTensor({tokens, 2 * channels}, 1, dtype)),
        dt(UniformTensor({tokens, channels}, 2, dtype, dt_range.low, dt_range.high)),
        b(UniformTensor({tokens, states}, 3, dtype)),
        c(UniformTensor({tokens, states}, 4, dtype)),
        dy(UniformTensor({tokens, channels}, 5, dtype)),
        a_log(UniformTensor({channels, states}, 6, inner, a_log_range.low, a_log_range.high)),
        dt_bias(UniformTensor({channels}, 7, inner)),
        final_state(Tensor::OnHost(inner, {states, channels})),
        delta_sum(Tensor::OnHost(inner, {channels})),
        dinitial_state(Tensor::OnHost(inner, {states, channels})),
        state(UniformTensor({states, channels}, 8, inner)) {}

  SelectiveScanSummaryForwardArgs forward() {
    return {.x = xz.columns(0, dt.shape()[1]),
            .dt = dt.matrix(),
            .b = b.matrix(),
            .a_log = a_log.matrix(),
            .dt_bias = dt_bias.vector(),
            .final_state = final_state.matrix(),
            .delta_sum = delta_sum.vector()};
  }
  SelectiveScanSummaryBackwardArgs backward() {
    return {.dt = dt.matrix(),
            .z = xz.columns(dt.shape()[1], dt.shape()[1]),
            .c = c.matrix(),
            .dy = dy.matrix(),
            .a_log = a_log.matrix(),
            .dt_bias = dt_bias.vector(),
            .dinitial_state = dinitial_state.matrix(),
            .delta_sum = delta_sum.vector()};
  }
  SelectiveScanCarryArgs carry(const Tensor& local) {
    return {.a_log = a_log.matrix(),
            .delta_sum = delta_sum.vector(),
            .local = local.matrix(),
            .state = state.matrix()};
  }

  DType inner;
  Tensor xz, dt, b, c, dy, a_log, dt_bias, final_state, delta_sum, dinitial_state, state;
};

// Every implementation against the reference.
void ExpectAgreement(int64_t tokens, int64_t channels, int64_t states, DType dtype,
                     Range dt_range = {-2, 2}, Range a_log_range = {-1, 2}) {
  SCOPED_TRACE(testing::Message() << tokens << " tokens, " << channels << " channels, " << states
                                  << " states, " << Name(dtype));
  Execution execution({.num_threads = 1});
  const auto make = [&] { return Case(tokens, channels, states, dtype, dt_range, a_log_range); };
  Case expected = make();
  ASSERT_OK(reference::SelectiveScanSummaryForward(execution, expected.forward()));
  ASSERT_OK(reference::SelectiveScanSummaryBackward(execution, expected.backward()));
  ASSERT_OK(reference::SelectiveScanCarry(execution, expected.carry(expected.final_state)));
  // Rounding (f32; f64 beside f64) of the exponent delta A, whose size is at most 126 where the
  // decay is not zero, and of a sum over tokens, which as an exponent is at most 126 too.
  const double rounding = RoundingError(expected.inner), inner = 128 * rounding;
  const double over_tokens = inner + rounding * static_cast<double>(tokens);
  for (const auto& implementation : SelectiveScanSummaryForwardImplementations()) {
    SCOPED_TRACE(implementation.name);
    Case found = make();
    if (!implementation.accepts(found.forward()).empty()) continue;
    ASSERT_OK(RunOn(execution, implementation, found.forward()));
    ExpectClose("final_state", found.final_state, expected.final_state, inner);
    ExpectClose("delta_sum", found.delta_sum, expected.delta_sum, over_tokens);
  }
  for (const auto& implementation : SelectiveScanSummaryBackwardImplementations()) {
    SCOPED_TRACE(implementation.name);
    Case found = make();
    if (!implementation.accepts(found.backward()).empty()) continue;
    ASSERT_OK(RunOn(execution, implementation, found.backward()));
    ExpectClose("dinitial_state", found.dinitial_state, expected.dinitial_state, inner);
    ExpectClose("delta_sum", found.delta_sum, expected.delta_sum, over_tokens);
  }
  for (const auto& implementation : SelectiveScanCarryImplementations()) {
    SCOPED_TRACE(implementation.name);
    Case found = make();
    found.delta_sum = expected.delta_sum;
    const SelectiveScanCarryArgs args = found.carry(expected.final_state);
    if (!implementation.accepts(args).empty()) continue;
    ASSERT_OK(RunOn(execution, implementation, args));
    ExpectClose("state", found.state, expected.state, inner);
  }
}

TEST(SelectiveScanSummaryTest, ImplementationsAgreeWithTheReference) {
  ForEachSimdTarget([] {
    for (const int64_t states : {1, 3, 4, 16}) {
      for (const int64_t channels : {1, 5, 32, 70}) {
        for (const int64_t tokens : {0, 1, 31, 32, 33, 100}) {
          ExpectAgreement(tokens, channels, states, DType::kF32);
        }
      }
      ExpectAgreement(100, 70, states, DType::kBf16);
    }
  });
}

// dt far above softplus's threshold, dt whose softplus is nearly zero, decays that underflow.
TEST(SelectiveScanSummaryTest, ImplementationsAgreeAtExtremes) {
  ForEachSimdTarget([] {
    ExpectAgreement(100, 20, 8, DType::kF32, {15, 60});
    ExpectAgreement(100, 20, 8, DType::kF32, {-80, -10});
    ExpectAgreement(100, 20, 8, DType::kF32, {-40, 40}, {4, 12});
    ExpectAgreement(100, 20, 8, DType::kBf16, {-100, 100}, {-10, 20});
  });
}

TEST(SelectiveScanSummaryTest, ImplementationsAgreeInF64) {
  for (const int64_t states : {3, 8, 16}) {
    ExpectAgreement(0, 5, states, DType::kF64);
    ExpectAgreement(33, 70, states, DType::kF64);
    ExpectAgreement(300, 5, states, DType::kF64);
  }
}

// Parts that are cut into segments, more than one block of channels, states in shared memory.
TEST(SelectiveScanSummaryTest, ImplementationsAgreeOverManySegments) {
  ExpectAgreement(330, 5, 16, DType::kF32);
  ExpectAgreement(330, 150, 8, DType::kF32);
  ExpectAgreement(400, 40, 20, DType::kBf16);
}

TEST(SelectiveScanSummaryTest, ThreadsDoNotChangeBits) {
  Execution one({.num_threads = 1}), three({.num_threads = 3});
  Case a(300, 200, 16, DType::kBf16), b(300, 200, 16, DType::kBf16);
  for (auto& [execution, c] : {std::pair<Execution&, Case&>(one, a), {three, b}}) {
    ASSERT_OK(SelectiveScanSummaryForward(execution, c.forward()));
    ASSERT_OK(SelectiveScanSummaryBackward(execution, c.backward()));
    ASSERT_OK(SelectiveScanCarry(execution, c.carry(c.final_state)));
  }
  ExpectSameBits("final_state", a.final_state, b.final_state);
  ExpectSameBits("delta_sum", a.delta_sum, b.delta_sum);
  ExpectSameBits("dinitial_state", a.dinitial_state, b.dinitial_state);
  ExpectSameBits("state", a.state, b.state);
}

// A packed sequence that the scan walks in one call or in segments.
struct Sequence {
  static constexpr int64_t kChannels = 3, kStates = 2;

  Sequence(const std::vector<int32_t>& document_offsets, DType dtype)
      : offsets(document_offsets),
        inner(StatisticsDType(dtype)),
        part(offsets.back(), kChannels, kStates, dtype, {-5, 1}),
        d(UniformTensor({kChannels}, 9, inner)),
        y(Tensor::OnHost(dtype, {offsets.back(), kChannels})),
        checkpoints(Tensor::OnHost(
            inner, {NumSelectiveScanCheckpoints(offsets.back()) * kStates, kChannels})),
        dx(y.Clone()),
        ddt(y.Clone()),
        dz(y.Clone()),
        db(Tensor::OnHost(inner, {offsets.back(), kStates})),
        dc(db.Clone()),
        da_log(Tensor::OnHost(inner, {kChannels, kStates})),
        dd(Tensor::OnHost(inner, {kChannels})),
        ddt_bias(dd.Clone()),
        initial_state(Tensor::OnHost(inner, {documents(), kStates, kChannels})),
        dfinal_state(initial_state.Clone()) {}

  int64_t documents() const { return static_cast<int64_t>(offsets.size()) - 1; }
  SelectiveScanInputs inputs() const {
    return {.x = part.xz.columns(0, kChannels),
            .dt = part.dt.matrix(),
            .z = part.xz.columns(kChannels, kChannels),
            .b = part.b.matrix(),
            .c = part.c.matrix(),
            .a_log = part.a_log.matrix(),
            .d = d.vector(),
            .dt_bias = part.dt_bias.vector(),
            .documents = documents(),
            .document_offsets = offsets.data()};
  }
  SelectiveScanForwardArgs forward() {
    return {.in = inputs(),
            .y = y.matrix(),
            .checkpoints = checkpoints.matrix(),
            .initial_state = initial_state.matrix()};
  }
  SelectiveScanBackwardArgs backward() {
    return {.in = inputs(),
            .checkpoints = checkpoints.matrix(),
            .dy = part.dy.matrix(),
            .dx = dx.matrix(),
            .ddt = ddt.matrix(),
            .dz = dz.matrix(),
            .db = db.matrix(),
            .dc = dc.matrix(),
            .da_log = da_log.matrix(),
            .dd = dd.vector(),
            .ddt_bias = ddt_bias.vector(),
            .initial_state = initial_state.matrix(),
            .dfinal_state = dfinal_state.matrix()};
  }
  // Only rows [begin, end).
  void Keep(int64_t begin, int64_t end) {
    for (Tensor* rows : {&part.xz, &part.dt, &part.b, &part.c, &part.dy}) {
      *rows = CopyOfRows(*rows, begin, end);
    }
  }

  std::vector<int32_t> offsets;
  DType inner;
  Case part;
  Tensor d, y, checkpoints, dx, ddt, dz, db, dc, da_log, dd, ddt_bias, initial_state, dfinal_state;
};

// The part of a segment's document whose rows are [begin, end), on its own.
Case PartOf(const Sequence& segment, int64_t begin, int64_t end) {
  Case part = segment.part;
  for (Tensor* rows : {&part.xz, &part.dt, &part.b, &part.c, &part.dy}) {
    *rows = CopyOfRows(*rows, begin, end);
  }
  for (Tensor* result : {&part.final_state, &part.delta_sum, &part.dinitial_state, &part.state}) {
    *result = result->Clone();
    result->FillZero();
  }
  return part;
}

// With nothing behind the last token, the gradient of the state before the first one is all that
// the outputs give.
TEST(SelectiveScanSummaryTest, ReferenceBackwardMatchesFiniteDifferences) {
  Execution execution;
  Sequence c({0, 40}, DType::kF64);
  c.initial_state = UniformTensor(c.initial_state.shape(), 10);
  ASSERT_OK(reference::SelectiveScanSummaryBackward(execution, c.part.backward()));
  ExpectGradientMatches("initial_state", c.initial_state, c.part.dinitial_state, [&] {
    EXPECT_OK(SelectiveScanForward(execution, c.forward()));
    return WeightedSum(c.y, c.part.dy);
  });
}

// Every segment summarises its last (backwards: first) document at once; each then carries a state
// through the summaries before (after) it.
void ExpectSummariesContinue(const std::vector<int32_t>& offsets, const std::vector<int32_t>& cuts,
                             DType dtype, double bound) {
  SCOPED_TRACE(testing::PrintToString(cuts));
  constexpr int64_t kChannels = Sequence::kChannels, kStates = Sequence::kStates;
  Execution execution;
  Sequence whole(offsets, dtype), joined(offsets, dtype);
  ASSERT_OK(SelectiveScanForward(execution, whole.forward()));
  ASSERT_OK(SelectiveScanBackward(execution, whole.backward()));

  const std::vector<DocumentSegment> cut = CutIntoSegments(offsets, cuts);
  const auto num_segments = static_cast<int64_t>(cut.size());
  std::vector<Sequence> segments;
  std::vector<Case> last, first;
  for (const DocumentSegment& segment : cut) {
    Sequence& s = segments.emplace_back(segment.offsets, dtype);
    s.part = whole.part;
    s.Keep(segment.begin, segment.end);
    last.push_back(PartOf(s, segment.last_begin(), segment.offsets.back()));
    ASSERT_OK(SelectiveScanSummaryForward(execution, last.back().forward()));
    first.push_back(PartOf(s, 0, segment.first_end()));
    ASSERT_OK(SelectiveScanSummaryBackward(execution, first.back().backward()));
  }
  for (int64_t i = 0; i < num_segments; ++i) {
    Sequence& s = segments[i];
    if (cut[i].continues_before) {
      int64_t from = i - 1;
      while (cut[from].documents() == 1 && cut[from].continues_before) --from;
      Tensor state = Tensor::OnHost(s.inner, {1, kStates, kChannels});
      for (; from < i; ++from) {
        SelectiveScanCarryArgs carry = last[from].carry(last[from].final_state);
        carry.state = state.matrix();
        ASSERT_OK(SelectiveScanCarry(execution, carry));
      }
      SetRows(state, s.initial_state, 0);
    }
    if (cut[i].continues_after) {
      int64_t from = i + 1;
      while (cut[from].documents() == 1 && cut[from].continues_after) ++from;
      Tensor state = Tensor::OnHost(s.inner, {1, kStates, kChannels});
      for (; from > i; --from) {
        SelectiveScanCarryArgs carry = first[from].carry(first[from].dinitial_state);
        carry.state = state.matrix();
        ASSERT_OK(SelectiveScanCarry(execution, carry));
      }
      SetRows(state, s.dfinal_state, s.documents() - 1);
    }
    ASSERT_OK(SelectiveScanForward(execution, s.forward()));
    SelectiveScanBackwardArgs backward = s.backward();
    backward.da_log = joined.da_log.matrix();
    backward.dd = joined.dd.vector();
    backward.ddt_bias = joined.ddt_bias.vector();
    ASSERT_OK(SelectiveScanBackward(execution, backward));
    for (auto member : {&Sequence::y, &Sequence::dx, &Sequence::ddt, &Sequence::dz, &Sequence::db,
                        &Sequence::dc}) {
      SetRows(s.*member, joined.*member, cut[i].begin);
    }
  }
  const std::pair<const char*, Tensor Sequence::*> compared[] = {
      {"y", &Sequence::y},           {"dx", &Sequence::dx}, {"ddt", &Sequence::ddt},
      {"dz", &Sequence::dz},         {"db", &Sequence::db}, {"dc", &Sequence::dc},
      {"da_log", &Sequence::da_log}, {"dd", &Sequence::dd}, {"ddt_bias", &Sequence::ddt_bias}};
  for (const auto& [name, member] : compared) {
    ExpectNormClose(name, joined.*member, whole.*member, bound);
  }
}

// Two to five segments, documents shorter and longer than they are, segments of one token.
TEST(SelectiveScanSummaryTest, SegmentsFromSummariesEqualOneCall) {
  const std::vector<int32_t> offsets = {0, 3, 70, 71, 80, 200};
  for (const auto& cuts : std::vector<std::vector<int32_t>>{{100},
                                                            {70},
                                                            {67, 134},
                                                            {50, 100, 150},
                                                            {40, 80, 120, 160},
                                                            {1, 2, 3, 4},
                                                            {20, 21, 22, 199},
                                                            {90, 91, 92, 93}}) {
    // f64 sums in another order.
    ExpectSummariesContinue(offsets, cuts, DType::kF64, 1e-12);
    // The bounds of the agreement with the reference above, twice: one call against the other.
    const double f32 = RoundingError(DType::kF32) * (128.0 + 200.0);
    ForEachSimdTarget([&] { ExpectSummariesContinue(offsets, cuts, DType::kF32, 2 * f32); });
  }
}

TEST(SelectiveScanSummaryTest, RejectsWrongShapes) {
  Execution execution;
  Case c(3, 4, 2, DType::kF32);
  SelectiveScanSummaryForwardArgs forward = c.forward();
  forward.final_state.rows = 3;
  EXPECT_THAT(SelectiveScanSummaryForward(execution, forward),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       HasSubstr("final_state: expected [2, 4], got [3, 4]")));
  SelectiveScanSummaryBackwardArgs backward = c.backward();
  backward.dy.columns = 3;
  EXPECT_THAT(
      SelectiveScanSummaryBackward(execution, backward),
      StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("dy: expected [3, 4], got [3, 3]")));
  SelectiveScanCarryArgs carry = c.carry(c.final_state);
  carry.delta_sum.size = 5;
  EXPECT_THAT(SelectiveScanCarry(execution, carry),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       HasSubstr("delta_sum: expected width 4, got 5")));
}

}  // namespace
}  // namespace plait
