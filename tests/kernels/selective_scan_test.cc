#include "kernels/selective_scan.h"

#include <functional>
#include <limits>
#include <utility>
#include <vector>

#include "kernels/reference/selective_scan.h"
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

struct Case {
  Case(int64_t channels, int64_t states, const std::vector<int32_t>& document_offsets, DType dtype,
       Range dt_range = {-2, 2}, Range a_log_range = {-1, 2})
      : offsets(document_offsets),
        inner(StatisticsDType(dtype)),
        xz(UniformTensor({tokens(), 2 * channels}, 1, dtype)),
        dt(UniformTensor({tokens(), channels}, 2, dtype, dt_range.low, dt_range.high)),
        b(UniformTensor({tokens(), states}, 3, dtype)),
        c(UniformTensor({tokens(), states}, 4, dtype)),
        a_log(UniformTensor({channels, states}, 5, inner, a_log_range.low, a_log_range.high)),
        d(UniformTensor({channels}, 6, inner)),
        dt_bias(UniformTensor({channels}, 7, inner)),
        dy(UniformTensor({tokens(), channels}, 8, dtype)),
        y(Tensor::OnHost(dtype, {tokens(), channels})),
        checkpoints(
            Tensor::OnHost(inner, {NumSelectiveScanCheckpoints(tokens()), states, channels})),
        initial_state(UniformTensor({documents(), states, channels}, 9, inner)),
        final_state(Tensor::OnHost(inner, {documents(), states, channels})),
        dx(Tensor::OnHost(dtype, {tokens(), channels})),
        ddt(Tensor::OnHost(dtype, {tokens(), channels})),
        dz(Tensor::OnHost(dtype, {tokens(), channels})),
        db(Tensor::OnHost(inner, {tokens(), states})),
        dc(Tensor::OnHost(inner, {tokens(), states})),
        da_log(UniformTensor({channels, states}, 10, inner)),
        dd(UniformTensor({channels}, 11, inner)),
        ddt_bias(UniformTensor({channels}, 12, inner)),
        dfinal_state(UniformTensor({documents(), states, channels}, 13, inner)),
        dinitial_state(Tensor::OnHost(inner, {documents(), states, channels})) {}

  int64_t tokens() const { return offsets.back(); }
  int64_t documents() const { return static_cast<int64_t>(offsets.size()) - 1; }
  int64_t channels() const { return dt.shape()[1]; }

  // x and z are views of one matrix, as in the model.
  SelectiveScanInputs inputs() const {
    return {.x = xz.columns(0, channels()),
            .dt = dt.matrix(),
            .z = xz.columns(channels(), channels()),
            .b = b.matrix(),
            .c = c.matrix(),
            .a_log = a_log.matrix(),
            .d = d.vector(),
            .dt_bias = dt_bias.vector(),
            .documents = documents(),
            .document_offsets = offsets.data()};
  }
  // From a state of zero, as in training.
  SelectiveScanForwardArgs forward() {
    return {.in = inputs(), .y = y.matrix(), .checkpoints = checkpoints.matrix()};
  }
  // From `initial_state`, as in generation.
  SelectiveScanForwardArgs continuation() {
    return {.in = inputs(),
            .y = y.matrix(),
            .checkpoints = checkpoints.matrix(),
            .initial_state = initial_state.matrix(),
            .final_state = final_state.matrix()};
  }
  SelectiveScanBackwardArgs backward() {
    return {.in = inputs(),
            .checkpoints = checkpoints.matrix(),
            .dy = dy.matrix(),
            .dx = dx.matrix(),
            .ddt = ddt.matrix(),
            .dz = dz.matrix(),
            .db = db.matrix(),
            .dc = dc.matrix(),
            .da_log = da_log.matrix(),
            .dd = dd.vector(),
            .ddt_bias = ddt_bias.vector()};
  }
  SelectiveScanBackwardArgs backward_of_continuation() {
    SelectiveScanBackwardArgs args = backward();
    args.initial_state = initial_state.matrix();
    args.dfinal_state = dfinal_state.matrix();
    args.dinitial_state = dinitial_state.matrix();
    return args;
  }

  std::vector<int32_t> offsets;
  DType inner;
  Tensor xz, dt, b, c, a_log, d, dt_bias, dy, y, checkpoints, initial_state, final_state, dx, ddt,
      dz, db, dc, da_log, dd, ddt_bias, dfinal_state, dinitial_state;
};

// Against a loss over c's outputs with the gradients that c's backward left. Two channels.
void ExpectInputGradientsMatch(Case& c, const std::function<double()>& loss) {
  Tensor dxz = Tensor::OnHost(DType::kF64, {c.tokens(), 4});
  for (int64_t t = 0; t < c.tokens(); ++t) {
    for (int64_t channel = 0; channel < 2; ++channel) {
      dxz.data<double>()[t * 4 + channel] = c.dx.data<double>()[t * 2 + channel];
      dxz.data<double>()[t * 4 + 2 + channel] = c.dz.data<double>()[t * 2 + channel];
    }
  }
  ExpectGradientMatches("x and z", c.xz, dxz, loss);
  ExpectGradientMatches("dt", c.dt, c.ddt, loss);
  ExpectGradientMatches("b", c.b, c.db, loss);
  ExpectGradientMatches("c", c.c, c.dc, loss);
  ExpectGradientMatches("a_log", c.a_log, c.da_log, loss);
  ExpectGradientMatches("d", c.d, c.dd, loss);
  ExpectGradientMatches("dt_bias", c.dt_bias, c.ddt_bias, loss);
}

TEST(SelectiveScanTest, ReferenceBackwardMatchesFiniteDifferences) {
  Execution execution;
  // Documents of 5, 1, 26, 1, 31 and 6 tokens: starts on and off the checkpoints' edges.
  Case c(2, 3, {0, 5, 6, 32, 33, 64, 70}, DType::kF64);
  for (Tensor* sum : {&c.da_log, &c.dd, &c.ddt_bias}) sum->FillZero();
  ASSERT_OK(reference::SelectiveScanForward(execution, c.forward()));
  ASSERT_OK(reference::SelectiveScanBackward(execution, c.backward()));
  ExpectInputGradientsMatch(c, [&] {
    EXPECT_OK(reference::SelectiveScanForward(execution, c.forward()));
    return WeightedSum(c.y, c.dy);
  });
}

// One document without tokens: its state's gradient passes through.
TEST(SelectiveScanTest, ReferenceStateGradientsMatchFiniteDifferences) {
  Execution execution;
  Case c(2, 3, {0, 5, 6, 6, 32, 33, 70}, DType::kF64);
  for (Tensor* sum : {&c.da_log, &c.dd, &c.ddt_bias}) sum->FillZero();
  ASSERT_OK(reference::SelectiveScanForward(execution, c.continuation()));
  ASSERT_OK(reference::SelectiveScanBackward(execution, c.backward_of_continuation()));
  const auto loss = [&] {
    EXPECT_OK(reference::SelectiveScanForward(execution, c.continuation()));
    return WeightedSum(c.y, c.dy) + WeightedSum(c.final_state, c.dfinal_state);
  };
  ExpectInputGradientsMatch(c, loss);
  ExpectGradientMatches("initial_state", c.initial_state, c.dinitial_state, loss);
}

std::vector<int32_t> Offsets(int64_t tokens) {
  if (tokens < 33) return {0, static_cast<int32_t>(tokens)};
  if (tokens == 33) return {0, 32, 33};
  return {0, 1, 2, 20, 20, 64, static_cast<int32_t>(tokens)};
}

// Devices beside the CPU do not depend on its SIMD targets: one of them is enough.
enum class Devices { kAll, kCpu };

struct Ranges {
  Range dt = {-2, 2}, a_log = {-1, 2};
};

// Every implementation against the reference.
void ExpectAgreement(const std::vector<int32_t>& offsets, int64_t channels, int64_t states,
                     DType dtype, Devices devices = Devices::kAll, Ranges ranges = {}) {
  SCOPED_TRACE(testing::Message() << offsets.back() << " tokens, " << channels << " channels, "
                                  << states << " states, " << Name(dtype));
  Execution execution({.num_threads = 1});
  const auto make = [&] { return Case(channels, states, offsets, dtype, ranges.dt, ranges.a_log); };
  Case expected = make(), continued = make();
  ASSERT_OK(reference::SelectiveScanForward(execution, continued.continuation()));
  ASSERT_OK(reference::SelectiveScanBackward(execution, continued.backward_of_continuation()));
  ASSERT_OK(reference::SelectiveScanForward(execution, expected.forward()));
  ASSERT_OK(reference::SelectiveScanBackward(execution, expected.backward()));
  // Rounding (f32; f64 beside f64) of the exponent delta A, whose size is at most 126 where the
  // decay is not zero, and of the sums over states (db, dc: channels; parameters: tokens).
  const double rounding = RoundingError(expected.inner);
  const double inner = rounding * static_cast<double>(128 + 4 * states);
  const double over_channels = inner + rounding * static_cast<double>(channels);
  const double over_tokens = inner + rounding * static_cast<double>(offsets.back());
  // One rounding of the result to either side of a tie.
  const double output = 2 * RoundingError(dtype) + inner;
  for (const auto& implementation : SelectiveScanForwardImplementations()) {
    SCOPED_TRACE(implementation.name);
    if (devices == Devices::kCpu && implementation.device != DeviceKind::kCpu) continue;
    Case found = make();
    if (!implementation.accepts(found.forward()).empty()) continue;
    ASSERT_OK(RunOn(execution, implementation, found.continuation()));
    ExpectClose("y continued", found.y, continued.y, output);
    ExpectClose("final_state", found.final_state, continued.final_state, inner);
    SelectiveScanForwardArgs in_place = found.continuation();
    in_place.final_state = found.initial_state.matrix();
    ASSERT_OK(RunOn(execution, implementation, in_place));
    ExpectClose("final_state in place", found.initial_state, continued.final_state, inner);
    ASSERT_OK(RunOn(execution, implementation, found.forward()));
    ExpectClose("y", found.y, expected.y, output);
    ExpectClose("checkpoints", found.checkpoints, expected.checkpoints, inner);
  }
  const auto expect_gradients = [&](const Case& found, const Case& right) {
    ExpectClose("dx", found.dx, right.dx, output);
    ExpectClose("ddt", found.ddt, right.ddt, output);
    ExpectClose("dz", found.dz, right.dz, output);
    ExpectClose("db", found.db, right.db, over_channels);
    ExpectClose("dc", found.dc, right.dc, over_channels);
    ExpectClose("da_log", found.da_log, right.da_log, over_tokens);
    ExpectClose("dd", found.dd, right.dd, over_tokens);
    ExpectClose("ddt_bias", found.ddt_bias, right.ddt_bias, over_tokens);
  };
  for (const auto& implementation : SelectiveScanBackwardImplementations()) {
    SCOPED_TRACE(implementation.name);
    if (devices == Devices::kCpu && implementation.device != DeviceKind::kCpu) continue;
    Case found = make();
    if (!implementation.accepts(found.backward()).empty()) continue;
    ASSERT_OK(reference::SelectiveScanForward(execution, found.forward()));
    ASSERT_OK(RunOn(execution, implementation, found.backward()));
    expect_gradients(found, expected);
    for (const bool in_place : {false, true}) {
      SCOPED_TRACE("continued");
      Case again = make();
      ASSERT_OK(reference::SelectiveScanForward(execution, again.continuation()));
      SelectiveScanBackwardArgs args = again.backward_of_continuation();
      if (in_place) args.dinitial_state = again.dfinal_state.matrix();
      ASSERT_OK(RunOn(execution, implementation, args));
      expect_gradients(again, continued);
      ExpectClose("dinitial_state", in_place ? again.dfinal_state : again.dinitial_state,
                  continued.dinitial_state, inner);
    }
  }
}

TEST(SelectiveScanTest, ImplementationsAgreeWithTheReference) {
  Devices devices = Devices::kAll;
  ForEachSimdTarget([&] {
    for (const int64_t states : {1, 3, 4, 8, 16}) {
      for (const int64_t channels : {1, 5, 32, 70}) {
        for (const int64_t tokens : {1, 31, 32, 33, 100}) {
          ExpectAgreement(Offsets(tokens), channels, states, DType::kF32, devices);
        }
      }
      ExpectAgreement(Offsets(100), 70, states, DType::kBf16, devices);
    }
    devices = Devices::kCpu;
  });
}

// dt far above softplus's threshold, dt whose softplus is nearly zero, decays that underflow.
TEST(SelectiveScanTest, ImplementationsAgreeAtExtremes) {
  Devices devices = Devices::kAll;
  ForEachSimdTarget([&] {
    ExpectAgreement(Offsets(100), 20, 8, DType::kF32, devices, {.dt = {15, 60}});
    ExpectAgreement(Offsets(100), 20, 8, DType::kF32, devices, {.dt = {-80, -10}});
    ExpectAgreement(Offsets(100), 20, 8, DType::kF32, devices, {.dt = {-40, 40}, .a_log = {4, 12}});
    ExpectAgreement(Offsets(100), 20, 8, DType::kBf16, devices,
                    {.dt = {-100, 100}, .a_log = {-10, 20}});
    devices = Devices::kCpu;
  });
}

TEST(SelectiveScanTest, ImplementationsAgreeInF64) {
  for (const int64_t states : {3, 8, 16}) {
    ExpectAgreement(Offsets(100), 5, states, DType::kF64);
    ExpectAgreement({0, 7, 7, 70, 130, 300}, 5, states, DType::kF64);
  }
}

// Segments that begin inside documents, at their starts and without one; more than one block of
// channels; states in shared memory.
TEST(SelectiveScanTest, ImplementationsAgreeOverManySegments) {
  const std::vector<int32_t> many = {0, 1, 63, 65, 65, 127, 190, 270, 300, 300};
  for (const auto& offsets : std::vector<std::vector<int32_t>>{{0, 330}, {0, 64, 128, 330}, many}) {
    ExpectAgreement(offsets, 5, 16, DType::kF32);
  }
  ExpectAgreement(many, 140, 8, DType::kBf16);
  ExpectAgreement(many, 40, 20, DType::kF32);
}

// Documents of a few tokens: several in a step of the kernels, edges everywhere in it.
TEST(SelectiveScanTest, ImplementationsAgreeOnShortDocuments) {
  std::vector<int32_t> offsets = {0};
  for (int i = 0; i < 40; ++i) offsets.push_back(offsets.back() + i % 6);
  ExpectAgreement(offsets, 9, 8, DType::kF32);
}

// As in the model: B and C are columns of one matrix, and so are their gradients in its dtype.
TEST(SelectiveScanTest, GradientsOfColumnsOfAWiderMatrixAgree) {
  Execution execution;
  constexpr int64_t kTokens = 50, kStates = 8, kStride = 3 + 2 * kStates;
  for (const auto& implementation : SelectiveScanBackwardImplementations()) {
    SCOPED_TRACE(implementation.name);
    Case c(20, kStates, {0, 20, kTokens}, DType::kBf16);
    ASSERT_OK(reference::SelectiveScanForward(execution, c.forward()));
    ASSERT_OK(RunOn(execution, implementation, c.backward()));
    Tensor selection = Tensor::OnHost(DType::kBf16, {kTokens, kStride});
    for (int64_t t = 0; t < kTokens; ++t) {
      BFloat16* row = selection.data<BFloat16>() + t * kStride + 3;
      std::copy_n(c.b.data<BFloat16>() + t * kStates, kStates, row);
      std::copy_n(c.c.data<BFloat16>() + t * kStates, kStates, row + kStates);
    }
    Tensor dselection = Tensor::OnHost(DType::kBf16, {kTokens, kStride});
    SelectiveScanBackwardArgs args = c.backward();
    args.in.b = selection.columns(3, kStates);
    args.in.c = selection.columns(3 + kStates, kStates);
    args.db = dselection.columns(3, kStates);
    args.dc = dselection.columns(3 + kStates, kStates);
    ASSERT_OK(RunOn(execution, implementation, args));
    Tensor db = Tensor::OnHost(DType::kBf16, {kTokens, kStates}), dc = db.Clone();
    for (int64_t t = 0; t < kTokens; ++t) {
      const BFloat16* row = dselection.data<BFloat16>() + t * kStride + 3;
      std::copy_n(row, kStates, db.data<BFloat16>() + t * kStates);
      std::copy_n(row + kStates, kStates, dc.data<BFloat16>() + t * kStates);
    }
    // One rounding, to either side of a tie.
    ExpectClose("db", db, c.db, 2 * RoundingError(DType::kBf16));
    ExpectClose("dc", dc, c.dc, 2 * RoundingError(DType::kBf16));
  }
}

// One document given in pieces, the state passed on, equals one call.
TEST(SelectiveScanTest, StatePassedBetweenCallsContinuesBitForBit) {
  ForEachSimdTarget([] {
    Execution execution;
    Case whole(37, 6, {0, 70}, DType::kBf16);
    ASSERT_OK(SelectiveScanForward(execution, whole.continuation()));
    Tensor state = whole.initial_state.Clone();
    for (const auto& [begin, end] : {std::pair{0, 40}, {40, 41}, {41, 42}, {42, 70}}) {
      Case piece(37, 6, {0, end - begin}, DType::kBf16);
      piece.xz = CopyOfRows(whole.xz, begin, end);
      piece.dt = CopyOfRows(whole.dt, begin, end);
      piece.b = CopyOfRows(whole.b, begin, end);
      piece.c = CopyOfRows(whole.c, begin, end);
      SelectiveScanForwardArgs args = piece.continuation();
      args.initial_state = state.matrix();
      args.final_state = state.matrix();  // the same memory
      ASSERT_OK(SelectiveScanForward(execution, args));
      ExpectSameBits("y", piece.y, CopyOfRows(whole.y, begin, end));
    }
    ExpectSameBits("state", state, whole.final_state);
  });
}

// A packed sequence in segments that end inside documents, states and their gradients passed on,
// equals one call.
TEST(SelectiveScanTest, SegmentsWithPassedStatesEqualOneCall) {
  Execution execution;
  constexpr int64_t kChannels = 3, kStates = 2;
  Case whole(kChannels, kStates, {0, 2, 50, 51, 120}, DType::kF64);
  ASSERT_OK(SelectiveScanForward(execution, whole.forward()));
  ASSERT_OK(SelectiveScanBackward(execution, whole.backward()));
  for (const auto& cuts : std::vector<std::vector<int32_t>>{
           {20}, {50}, {1, 51}, {30, 31, 32, 33}, {1, 2, 3, 4, 5, 49, 52, 118, 119}}) {
    SCOPED_TRACE(testing::PrintToString(cuts));
    const std::vector<DocumentSegment> segments = CutIntoSegments(whole.offsets, cuts);
    std::vector<Case> cases;
    Case joined(kChannels, kStates, whole.offsets, DType::kF64);
    for (const DocumentSegment& segment : segments) {
      Case& c = cases.emplace_back(kChannels, kStates, segment.offsets, DType::kF64);
      for (auto member : {&Case::xz, &Case::dt, &Case::b, &Case::c, &Case::dy}) {
        c.*member = CopyOfRows(whole.*member, segment.begin, segment.end);
      }
      c.initial_state.FillZero();
      if (segment.continues_before) {
        const Tensor& states = cases[cases.size() - 2].final_state;
        const int64_t documents = states.shape()[0];
        SetRows(CopyOfRows(states, documents - 1, documents), c.initial_state, 0);
      }
      ASSERT_OK(SelectiveScanForward(execution, c.continuation()));
      SetRows(c.y, joined.y, segment.begin);
    }
    for (size_t i = segments.size(); i-- > 0;) {
      Case& c = cases[i];
      c.dfinal_state.FillZero();
      if (segments[i].continues_after) {
        SetRows(CopyOfRows(cases[i + 1].dinitial_state, 0, 1), c.dfinal_state,
                segments[i].documents() - 1);
      }
      SelectiveScanBackwardArgs args = c.backward_of_continuation();
      args.da_log = joined.da_log.matrix();
      args.dd = joined.dd.vector();
      args.ddt_bias = joined.ddt_bias.vector();
      ASSERT_OK(SelectiveScanBackward(execution, args));
      for (auto member : {&Case::dx, &Case::ddt, &Case::dz, &Case::db, &Case::dc}) {
        SetRows(c.*member, joined.*member, segments[i].begin);
      }
    }
    // f64 sums in another order.
    const std::pair<const char*, Tensor Case::*> compared[] = {
        {"y", &Case::y},           {"dx", &Case::dx}, {"ddt", &Case::ddt},
        {"dz", &Case::dz},         {"db", &Case::db}, {"dc", &Case::dc},
        {"da_log", &Case::da_log}, {"dd", &Case::dd}, {"ddt_bias", &Case::ddt_bias}};
    for (const auto& [name, member] : compared) {
      ExpectNormClose(name, joined.*member, whole.*member, 1e-12);
    }
  }
}

TEST(SelectiveScanTest, EmptyDocumentKeepsItsState) {
  Execution execution;
  Case c(5, 4, {0, 3, 3}, DType::kF32);
  ASSERT_OK(SelectiveScanForward(execution, c.continuation()));
  ExpectSameBits("state", CopyOfRows(c.final_state, 1, 2), CopyOfRows(c.initial_state, 1, 2));
  ASSERT_OK(SelectiveScanBackward(execution, c.backward_of_continuation()));
  ExpectSameBits("gradient", CopyOfRows(c.dinitial_state, 1, 2), CopyOfRows(c.dfinal_state, 1, 2));
}

TEST(SelectiveScanTest, StateGradientPassesThroughACallWithoutTokens) {
  Execution execution;
  Case c(5, 4, {0, 0}, DType::kF32);
  ASSERT_OK(SelectiveScanBackward(execution, c.backward_of_continuation()));
  ExpectSameBits("gradient", c.dinitial_state, c.dfinal_state);
}

TEST(SelectiveScanTest, ThreadsDoNotChangeBits) {
  Execution one({.num_threads = 1}), three({.num_threads = 3});
  // More tokens than any block of time.
  Case a(200, 16, {0, 100, 1100}, DType::kBf16), b(200, 16, {0, 100, 1100}, DType::kBf16);
  for (auto& [execution, c] : {std::pair<Execution&, Case&>(one, a), {three, b}}) {
    ASSERT_OK(SelectiveScanForward(execution, c.forward()));
    ASSERT_OK(SelectiveScanBackward(execution, c.backward()));
  }
  ExpectSameBits("y", a.y, b.y);
  ExpectSameBits("checkpoints", a.checkpoints, b.checkpoints);
  ExpectSameBits("dx", a.dx, b.dx);
  ExpectSameBits("ddt", a.ddt, b.ddt);
  ExpectSameBits("dz", a.dz, b.dz);
  ExpectSameBits("db", a.db, b.db);
  ExpectSameBits("dc", a.dc, b.dc);
  ExpectSameBits("da_log", a.da_log, b.da_log);
  ExpectSameBits("dd", a.dd, b.dd);
  ExpectSameBits("ddt_bias", a.ddt_bias, b.ddt_bias);
}

// On an emulated device threads run in another order each time.
TEST(SelectiveScanTest, BitsRepeat) {
  Execution execution;
  const std::vector<int32_t> offsets = {0, 70, 71, 200};
  for (const auto& implementation : SelectiveScanBackwardImplementations()) {
    SCOPED_TRACE(implementation.name);
    Case first(70, 16, offsets, DType::kF32);
    ASSERT_OK(reference::SelectiveScanForward(execution, first.forward()));
    ASSERT_OK(RunOn(execution, implementation, first.backward()));
    for (int run = 0; run < 2; ++run) {
      Case again(70, 16, offsets, DType::kF32);
      ASSERT_OK(reference::SelectiveScanForward(execution, again.forward()));
      ASSERT_OK(RunOn(execution, implementation, again.backward()));
      for (auto member : {&Case::dx, &Case::ddt, &Case::dz, &Case::db, &Case::dc, &Case::da_log,
                          &Case::dd, &Case::ddt_bias}) {
        ExpectSameBits("a gradient", again.*member, first.*member);
      }
    }
  }
}

// A document's outputs and input gradients do not depend on where it lies in the microbatch nor on
// what lies beside it, not even on numbers that are not finite.
TEST(SelectiveScanTest, DocumentsAreIsolatedBitForBit) {
  ForEachSimdTarget([] {
    Execution execution;
    constexpr int64_t kLength = 50, kChannels = 40, kStates = 6;
    Case alone(kChannels, kStates, {0, kLength}, DType::kBf16);
    ASSERT_OK(SelectiveScanForward(execution, alone.forward()));
    ASSERT_OK(SelectiveScanBackward(execution, alone.backward()));
    for (const int32_t before : {1, 13, 32, 40}) {
      const int32_t end = before + static_cast<int32_t>(kLength);
      Case packed(kChannels, kStates, {0, before, end, end + 7}, DType::kBf16, {-9, 40}, {3, 9});
      packed.a_log = alone.a_log;
      packed.xz.values<BFloat16>()[0] = BFloat16(std::numeric_limits<float>::infinity());
      packed.dy.values<BFloat16>().back() = BFloat16(std::numeric_limits<float>::quiet_NaN());
      packed.xz.values<BFloat16>().back() = BFloat16(std::numeric_limits<float>::quiet_NaN());
      SetRows(alone.xz, packed.xz, before);
      SetRows(alone.dt, packed.dt, before);
      SetRows(alone.b, packed.b, before);
      SetRows(alone.c, packed.c, before);
      SetRows(alone.dy, packed.dy, before);
      ASSERT_OK(SelectiveScanForward(execution, packed.forward()));
      ASSERT_OK(SelectiveScanBackward(execution, packed.backward()));
      ExpectSameBits("y", CopyOfRows(packed.y, before, end), alone.y);
      ExpectSameBits("dx", CopyOfRows(packed.dx, before, end), alone.dx);
      ExpectSameBits("ddt", CopyOfRows(packed.ddt, before, end), alone.ddt);
      ExpectSameBits("dz", CopyOfRows(packed.dz, before, end), alone.dz);
      ExpectSameBits("db", CopyOfRows(packed.db, before, end), alone.db);
      ExpectSameBits("dc", CopyOfRows(packed.dc, before, end), alone.dc);
    }
  });
}

TEST(SelectiveScanTest, RejectsWrongShapes) {
  Execution execution;
  Case c(4, 2, {0, 3}, DType::kF32);
  SelectiveScanForwardArgs forward = c.forward();
  forward.in.a_log.columns = 3;
  EXPECT_THAT(SelectiveScanForward(execution, forward),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       HasSubstr("a_log: expected [4, 2], got [4, 3]")));
  c.offsets.back() = 2;
  forward = c.forward();
  forward.in.x.rows = forward.in.dt.rows = forward.in.z.rows = forward.y.rows = 3;
  EXPECT_THAT(SelectiveScanForward(execution, forward),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       HasSubstr("document_offsets[1]: expected 3 tokens, got 2")));
  c.offsets.back() = 3;
  SelectiveScanBackwardArgs backward = c.backward();
  backward.checkpoints.rows = 4;
  EXPECT_THAT(SelectiveScanBackward(execution, backward),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       HasSubstr("checkpoints: expected [2, 4], got [4, 4]")));
  backward = c.backward_of_continuation();
  backward.dfinal_state.rows = 1;
  EXPECT_THAT(SelectiveScanBackward(execution, backward),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       HasSubstr("dfinal_state: expected [2, 4], got [1, 4]")));
}

}  // namespace
}  // namespace plait
