#include "kernels/optimizer_update.h"

#include <limits>

#include "kernels/reference/optimizer_update.h"
#include "tests/support/device_execution.h"
#include "tests/support/random_tensor.h"
#include "tests/support/simd_targets.h"
#include "tests/support/status_matchers.h"
#include "tests/support/tensor_matchers.h"

namespace plait {
namespace {

using ::testing::HasSubstr;

constexpr double kLearningRate = 0.01, kBeta1 = 0.9, kBeta2 = 0.95, kEpsilon = 1e-8;
constexpr int kSteps = 20;

struct Case {
  Case(int64_t elements, DType dtype, DType compute_dtype)
      : parameter(UniformTensor({elements}, 1, dtype)),
        gradient(UniformTensor({elements}, 2, dtype)),
        first_moment(Tensor::OnHost(dtype, {elements})),
        second_moment(Tensor::OnHost(dtype, {elements})),
        compute(Tensor::OnHost(compute_dtype, {elements})) {}

  AdamWUpdateArgs args(int64_t step, double weight_decay = 0.1, double gradient_scale = 0.5) {
    return {.parameter = parameter.vector(),
            .gradient = gradient.vector(),
            .first_moment = first_moment.vector(),
            .second_moment = second_moment.vector(),
            .compute = compute.vector(),
            .learning_rate = kLearningRate,
            .beta1 = kBeta1,
            .beta2 = kBeta2,
            .epsilon = kEpsilon,
            .weight_decay = weight_decay,
            .gradient_scale = gradient_scale,
            .step = step};
  }
  void SetGradient(int64_t step) {
    gradient = UniformTensor({parameter.num_elements()}, static_cast<uint64_t>(100 + step),
                             parameter.dtype());
  }

  Tensor parameter, gradient, first_moment, second_moment, compute;
};

// The paper's algorithm for one element, written apart from the kernels: moments kept as sums over
// the history of gradients instead of recurrences.
double ParameterAfter(double parameter, const std::vector<double>& gradients, double weight_decay) {
  for (size_t t = 1; t <= gradients.size(); ++t) {
    double m = 0, v = 0, m_weight = 0, v_weight = 0;
    for (size_t k = 1; k <= t; ++k) {
      const double age = static_cast<double>(t - k);
      m += std::pow(kBeta1, age) * gradients[k - 1];
      v += std::pow(kBeta2, age) * gradients[k - 1] * gradients[k - 1];
      m_weight += std::pow(kBeta1, age);
      v_weight += std::pow(kBeta2, age);
    }
    // Bias-corrected moments are the weighted means of the history.
    const double update = (m / m_weight) / (std::sqrt(v / v_weight) + kEpsilon);
    parameter -= kLearningRate * (update + weight_decay * parameter);
  }
  return parameter;
}

// absolute: bound on a parameter's error after all steps.
void ExpectFollowsThePaper(const Implementation<AdamWUpdateArgs>& implementation, DType dtype,
                           double weight_decay, double absolute) {
  Execution execution({.num_threads = 2});
  const int64_t elements = 37;
  Case c(elements, dtype, DType::kBf16);
  if (!implementation.accepts(c.args(1)).empty()) return;
  const Tensor initial = c.parameter.Converted(DType::kF64);
  std::vector<std::vector<double>> gradients(static_cast<size_t>(elements));
  const double gradient_scale = 0.5;
  for (int64_t step = 1; step <= kSteps; ++step) {
    c.SetGradient(step);
    const Tensor gradient = c.gradient.Converted(DType::kF64);
    for (int64_t i = 0; i < elements; ++i)
      gradients[i].push_back(gradient_scale * gradient.data<double>()[i]);
    ASSERT_OK(RunOn(execution, implementation, c.args(step, weight_decay, gradient_scale)));
  }
  Tensor expected = Tensor::OnHost(DType::kF64, {elements});
  for (int64_t i = 0; i < elements; ++i)
    expected.data<double>()[i] =
        ParameterAfter(initial.data<double>()[i], gradients[i], weight_decay);
  ExpectClose("parameter", c.parameter, expected, 0, absolute);
  ExpectSameBits("compute", c.compute, c.parameter.Converted(DType::kBf16));
}

TEST(AdamWUpdateTest, TwentyStepsFollowThePaper) {
  ForEachSimdTarget([] {
    for (const auto& implementation : AdamWUpdateImplementations()) {
      SCOPED_TRACE(implementation.name);
      for (const double weight_decay : {0.0, 0.1}) {
        // f32: a step rounds the parameter (below 1.2) three times and the update (below
        // kLearningRate * 5) a dozen times.
        const double f32 = RoundingError(DType::kF32);
        ExpectFollowsThePaper(implementation, DType::kF32, weight_decay,
                              kSteps * f32 * (3 * 1.2 + 12 * kLearningRate * 5));
        ExpectFollowsThePaper(implementation, DType::kF64, weight_decay, 1e-13);
      }
    }
  });
}

// One step, every array, odd lengths and every dtype of the copy.
void ExpectAdamWAgrees() {
  Execution execution({.num_threads = 2});
  for (const auto& [dtype, compute_dtype] : {std::pair{DType::kF32, DType::kBf16},
                                             {DType::kF32, DType::kF32},
                                             {DType::kF64, DType::kBf16},
                                             {DType::kF64, DType::kF64}}) {
    for (const int64_t elements : {1, 7, 64, 129, 20001}) {
      Case expected(elements, dtype, compute_dtype);
      ASSERT_OK(reference::AdamWUpdate(execution, expected.args(1)));
      ASSERT_OK(reference::AdamWUpdate(execution, expected.args(2)));
      for (const auto& implementation : AdamWUpdateImplementations()) {
        SCOPED_TRACE(implementation.name);
        Case found(elements, dtype, compute_dtype);
        if (!implementation.accepts(found.args(1)).empty()) continue;
        ASSERT_OK(RunOn(execution, implementation, found.args(1)));
        ASSERT_OK(RunOn(execution, implementation, found.args(2)));
        const double unit = RoundingError(dtype);
        ExpectClose("parameter", found.parameter, expected.parameter, 8 * unit);
        ExpectClose("first_moment", found.first_moment, expected.first_moment, 8 * unit);
        ExpectClose("second_moment", found.second_moment, expected.second_moment, 8 * unit);
        ExpectSameBits("compute", found.compute, found.parameter.Converted(compute_dtype));
        AdamWUpdateArgs without_copy = found.args(3);
        without_copy.compute = {};
        ASSERT_OK(RunOn(execution, implementation, without_copy));
      }
    }
  }
}

TEST(AdamWUpdateTest, ImplementationsAgreeWithTheReference) {
  ForEachSimdTarget(ExpectAdamWAgrees);
}

TEST(AdamWUpdateTest, CopyRoundsToNearestEven) {
  ForEachSimdTarget([] {
    Execution execution;
    // Without gradient and decay the parameter stays. Ties lie half way between two bf16 values.
    const float values[] = {1.0f,       0x1.01p0f,  0x1.03p0f,     0x1.02p0f,
                            -0x1.01p0f, -0x1.03p0f, 0x1.010002p0f, 0x1.00fffep0f};
    const float expected[] = {1.0f, 1.0f, 0x1.04p0f, 0x1.02p0f, -1.0f, -0x1.04p0f, 0x1.02p0f, 1.0f};
    for (const auto& implementation : AdamWUpdateImplementations()) {
      SCOPED_TRACE(implementation.name);
      Case c(16, DType::kF32, DType::kBf16);
      for (int64_t i = 0; i < 16; ++i) c.parameter.data<float>()[i] = values[i % 8];
      c.gradient.FillZero();
      ASSERT_OK(RunOn(execution, implementation, c.args(1, /*weight_decay=*/0)));
      const Tensor copy = c.compute.Converted(DType::kF32);
      for (int64_t i = 0; i < 16; ++i) EXPECT_EQ(copy.data<float>()[i], expected[i % 8]) << i;
    }
  });
}

TEST(AdamWUpdateTest, ThreadsDoNotChangeBits) {
  Execution one({.num_threads = 1}), three({.num_threads = 3});
  Case a(100003, DType::kF32, DType::kBf16), b(100003, DType::kF32, DType::kBf16);
  ASSERT_OK(AdamWUpdate(one, a.args(1)));
  ASSERT_OK(AdamWUpdate(three, b.args(1)));
  ExpectSameBits("parameter", a.parameter, b.parameter);
  ExpectSameBits("first_moment", a.first_moment, b.first_moment);
  ExpectSameBits("second_moment", a.second_moment, b.second_moment);
  ExpectSameBits("compute", a.compute, b.compute);
}

// A shard may begin anywhere in the flat array: an element's update must not depend on its place.
// The arrays need not begin at the same place of a vector either: the second moment's parts do not.
void ExpectPlaceDoesNotChangeBits(const Implementation<AdamWUpdateArgs>& implementation,
                                  int64_t second_moment_offset) {
  Execution execution;
  Case whole(1000, DType::kF32, DType::kBf16), parts(1000, DType::kF32, DType::kBf16);
  Tensor moved = Tensor::OnHost(DType::kF32, {1000 + second_moment_offset});
  ASSERT_OK(RunOn(execution, implementation, whole.args(1)));
  for (const auto& [begin, end] : {std::pair<int64_t, int64_t>{0, 13}, {13, 14}, {14, 1000}}) {
    AdamWUpdateArgs args = parts.args(1);
    Tensor parameter = parts.parameter.Slice(begin, end);
    Tensor gradient = parts.gradient.Slice(begin, end);
    Tensor first_moment = parts.first_moment.Slice(begin, end);
    Tensor second_moment = moved.Slice(begin + second_moment_offset, end + second_moment_offset);
    Tensor compute = parts.compute.Slice(begin, end);
    args.parameter = parameter.vector();
    args.gradient = gradient.vector();
    args.first_moment = first_moment.vector();
    args.second_moment = second_moment.vector();
    args.compute = compute.vector();
    ASSERT_OK(RunOn(execution, implementation, args));
  }
  ExpectSameBits("parameter", parts.parameter, whole.parameter);
  ExpectSameBits("second_moment", moved.Slice(second_moment_offset, 1000 + second_moment_offset),
                 whole.second_moment);
  ExpectSameBits("compute", parts.compute, whole.compute);
}

TEST(AdamWUpdateTest, PlaceInTheArrayDoesNotChangeBits) {
  ForEachSimdTarget([] {
    for (const auto& implementation : AdamWUpdateImplementations()) {
      SCOPED_TRACE(implementation.name);
      ExpectPlaceDoesNotChangeBits(implementation, 0);
      ExpectPlaceDoesNotChangeBits(implementation, 1);
    }
  });
}

TEST(AdamWUpdateTest, RejectsBadArguments) {
  Execution execution;
  Case c(8, DType::kF32, DType::kBf16);
  EXPECT_THAT(AdamWUpdate(execution, c.args(0)),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       HasSubstr("step: expected 1 or more (steps count from 1), got 0")));
  c.gradient = UniformTensor({8}, 1, DType::kBf16);
  EXPECT_THAT(
      AdamWUpdate(execution, c.args(1)),
      StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("gradient: expected f32, got bf16")));
  c.gradient = UniformTensor({7}, 1, DType::kF32);
  EXPECT_THAT(
      AdamWUpdate(execution, c.args(1)),
      StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("gradient: expected width 8, got 7")));
}

Tensor TileSums(Execution& execution, const Implementation<SquaredNormArgs>& implementation,
                const Tensor& x) {
  Tensor sums = Tensor::OnHost(DType::kF64, {(x.num_elements() + 127) / 128});
  EXPECT_OK(RunOn(execution, implementation, {.x = x.vector(), .tile_sums = sums.vector()}));
  return sums;
}

// What every implementation but those that refuse x makes of it.
void ForEachTileSums(const Tensor& x, const std::function<void(const Tensor& sums)>& body) {
  Execution execution({.num_threads = 2});
  for (const auto& implementation : SquaredNormImplementations()) {
    SCOPED_TRACE(implementation.name);
    Tensor unused = Tensor::OnHost(DType::kF64, {(x.num_elements() + 127) / 128});
    const SquaredNormArgs args = {.x = x.vector(), .tile_sums = unused.vector()};
    if (implementation.accepts(args).empty()) body(TileSums(execution, implementation, x));
  }
}

TEST(SquaredNormTest, ImplementationsAgreeWithTheReference) {
  ForEachSimdTarget([] {
    Execution execution({.num_threads = 2});
    for (const DType dtype : {DType::kF32, DType::kF64}) {
      for (const int64_t elements : {1, 7, 64, 128, 129, 100003}) {
        const Tensor x = UniformTensor({elements}, 1, dtype);
        const int64_t tiles = (elements + 127) / 128;
        Tensor expected = Tensor::OnHost(DType::kF64, {tiles});
        ASSERT_OK(
            reference::SquaredNorm(execution, {.x = x.vector(), .tile_sums = expected.vector()}));
        ForEachTileSums(x, [&](const Tensor& found) {
          for (int64_t i = 0; i < tiles; ++i) {
            // Positive terms: one rounding a term, both ways.
            const double exact = expected.data<double>()[i];
            EXPECT_NEAR(found.data<double>()[i], exact, 2 * 0x1.0p-53 * 128 * exact);
          }
        });
      }
    }
  });
}

// Nor does the place in memory of the first element.
TEST(SquaredNormTest, NeitherThreadsNorCutsChangeBits) {
  const Tensor x = UniformTensor({200003}, 1, DType::kF32);
  Tensor moved = Tensor::OnHost(DType::kF32, {200004});
  std::copy_n(x.data<float>(), 200003, moved.data<float>() + 1);
  Execution one({.num_threads = 1}), three({.num_threads = 3});
  for (const auto& implementation : SquaredNormImplementations()) {
    SCOPED_TRACE(implementation.name);
    const Tensor a = TileSums(one, implementation, x);
    ExpectSameBits("threads", TileSums(three, implementation, x), a);
    const Tensor tail = TileSums(one, implementation, x.Flat(1000 * 128, {200003 - 1000 * 128}));
    ExpectSameBits("cut", tail, a.Slice(1000, a.num_elements()));
    ExpectSameBits("moved", TileSums(one, implementation, moved.Slice(1, 200004)), a);
  }
}

TEST(SquaredNormTest, NumbersThatAreNotFinitePropagate) {
  ForEachSimdTarget([] {
    for (const float bad :
         {std::numeric_limits<float>::infinity(), -std::numeric_limits<float>::infinity(),
          std::numeric_limits<float>::quiet_NaN()}) {
      for (const int64_t position : {0, 70000, 99999}) {
        Tensor x = UniformTensor({100000}, 1, DType::kF32);
        x.data<float>()[position] = bad;
        ForEachTileSums(x, [&](const Tensor& sums) {
          EXPECT_FALSE(std::isfinite(sums.data<double>()[position / 128]))
              << bad << " at " << position;
        });
      }
    }
  });
}

// f32 squares would overflow.
TEST(SquaredNormTest, LargeFiniteNumbersStayFinite) {
  ForEachSimdTarget([] {
    const Tensor x = Tensor::FromValues<float>({2}, {1e30f, 1e30f});
    ForEachTileSums(x, [](const Tensor& sums) { EXPECT_NEAR(sums.data<double>()[0], 2e60, 1e54); });
  });
}

TEST(SquaredNormTest, RejectsAMissingResult) {
  Execution execution;
  const Tensor x = UniformTensor({8}, 1, DType::kF32);
  EXPECT_THAT(SquaredNorm(execution, {.x = x.vector()}),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("tile_sums: ")));
}

}  // namespace
}  // namespace plait
