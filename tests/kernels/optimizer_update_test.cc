#include "kernels/optimizer_update.h"

#include <cmath>
#include <cstring>
#include <span>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
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

AdamWUpdateArgs Settings(std::span<const AdamWTensor> tensors, int64_t step,
                         double gradient_scale = 0.5) {
  return {.tensors = tensors,
          .learning_rate = kLearningRate,
          .beta1 = kBeta1,
          .beta2 = kBeta2,
          .epsilon = kEpsilon,
          .gradient_scale = gradient_scale,
          .step = step};
}

struct Case {
  Case(int64_t elements, DType dtype, DType compute_dtype)
      : parameter(UniformTensor({elements}, 1, dtype)),
        gradient(UniformTensor({elements}, 2, dtype)),
        first_moment(Tensor::OnHost(dtype, {elements})),
        second_moment(Tensor::OnHost(dtype, {elements})),
        compute(Tensor::OnHost(compute_dtype, {elements})) {}

  AdamWTensor tensor(double weight_decay = 0.1) {
    return {.name = "norm.weight",
            .parameter = parameter.vector(),
            .gradient = gradient.vector(),
            .first_moment = first_moment.vector(),
            .second_moment = second_moment.vector(),
            .compute = compute.vector(),
            .weight_decay = weight_decay};
  }
  // Of this tensor alone, valid until the next call.
  AdamWUpdateArgs args(int64_t step, double weight_decay = 0.1, double gradient_scale = 0.5) {
    alone = tensor(weight_decay);
    return Settings({&alone, 1}, step, gradient_scale);
  }
  void SetGradient(int64_t step) {
    gradient = UniformTensor({parameter.num_elements()}, static_cast<uint64_t>(100 + step),
                             parameter.dtype());
  }

  Tensor parameter, gradient, first_moment, second_moment, compute;
  AdamWTensor alone;
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
        AdamWTensor without_copy = found.tensor();
        without_copy.compute = {};
        ASSERT_OK(RunOn(execution, implementation, Settings({&without_copy, 1}, 3)));
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
    AdamWTensor part = parts.tensor();
    Tensor parameter = parts.parameter.Slice(begin, end);
    Tensor gradient = parts.gradient.Slice(begin, end);
    Tensor first_moment = parts.first_moment.Slice(begin, end);
    Tensor second_moment = moved.Slice(begin + second_moment_offset, end + second_moment_offset);
    Tensor compute = parts.compute.Slice(begin, end);
    part.parameter = parameter.vector();
    part.gradient = gradient.vector();
    part.first_moment = first_moment.vector();
    part.second_moment = second_moment.vector();
    part.compute = compute.vector();
    ASSERT_OK(RunOn(execution, implementation, Settings({&part, 1}, 1)));
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

enum class Places { kAligned, kAny };

// Parameters of many sizes, some of none: more than two launches on a device take. Some are without
// a copy. kAny: arrays begin at any place of a vector, most of a parameter's at the same one.
class ManyParameters {
 public:
  struct Array {
    Tensor tensor;  // zeros around the elements
    int64_t begin, end;
  };

  ManyParameters(DType dtype, DType compute_dtype, Places places) {
    constexpr int64_t kSizes[] = {1025, 0, 1, 7, 64, 2048, 3, 4099, 0, 130};
    for (int64_t i = 0; i < 210; ++i) {
      const int64_t size = kSizes[i % 10], place = places == Places::kAny ? i / 10 % 5 : 0;
      const int64_t second_place = places == Places::kAny && i % 7 == 0 ? place + 1 : place;
      AdamWTensor tensor = {.name = "many.weight",
                            .parameter = Add(dtype, size, place),
                            .gradient = Add(dtype, size, place),
                            .first_moment = Add(dtype, size, place),
                            .second_moment = Add(dtype, size, second_place, /*low=*/0),
                            .weight_decay = 0.01 * static_cast<double>(i)};
      if (i % 3 != 0) tensor.compute = Add(compute_dtype, size, place);
      tensors_.push_back(tensor);
    }
  }

  std::span<const AdamWTensor> tensors() const { return tensors_; }
  const std::vector<Array>& arrays() const { return arrays_; }

 private:
  VectorView Add(DType dtype, int64_t size, int64_t begin, double low = -1) {
    const Tensor values =
        UniformTensor({size}, static_cast<uint64_t>(10'000 + arrays_.size()), dtype, low);
    Array array = {Tensor::OnHost(dtype, {size + 8}), begin, begin + size};
    Tensor elements = array.tensor.Slice(array.begin, array.end);
    std::memcpy(elements.raw(), values.raw(), values.bytes());
    arrays_.push_back(array);
    return elements.vector();
  }

  std::vector<Array> arrays_;
  std::vector<AdamWTensor> tensors_;
};

void ExpectManyAtOnceEqualOneByOne(const Implementation<AdamWUpdateArgs>& implementation,
                                   DType dtype, DType compute_dtype) {
  Execution one({.num_threads = 1}), three({.num_threads = 3});
  const ManyParameters alone(dtype, compute_dtype, Places::kAligned);
  const ManyParameters together(dtype, compute_dtype, Places::kAny);
  if (!implementation.accepts(Settings(together.tensors(), 2)).empty()) return;
  for (const AdamWTensor& tensor : alone.tensors()) {
    ASSERT_OK(RunOn(one, implementation, Settings({&tensor, 1}, 2)));
  }
  ASSERT_OK(RunOn(three, implementation, Settings(together.tensors(), 2)));
  for (size_t i = 0; i < alone.arrays().size(); ++i) {
    const ManyParameters::Array &found = together.arrays()[i], &from = alone.arrays()[i];
    Tensor expected = Tensor::OnHost(found.tensor.dtype(), found.tensor.shape());
    const Tensor elements = from.tensor.Slice(from.begin, from.end);
    std::memcpy(expected.Slice(found.begin, found.end).raw(), elements.raw(), elements.bytes());
    ExpectSameBits(absl::StrCat("array ", i), found.tensor, expected);
  }
}

TEST(AdamWUpdateTest, ManyAtOnceEqualOneByOne) {
  ForEachSimdTarget([] {
    for (const auto& implementation : AdamWUpdateImplementations()) {
      SCOPED_TRACE(implementation.name);
      ExpectManyAtOnceEqualOneByOne(implementation, DType::kF32, DType::kBf16);
      ExpectManyAtOnceEqualOneByOne(implementation, DType::kF32, DType::kF32);
      ExpectManyAtOnceEqualOneByOne(implementation, DType::kF64, DType::kBf16);
      ExpectManyAtOnceEqualOneByOne(implementation, DType::kF64, DType::kF64);
    }
  });
}

TEST(AdamWUpdateTest, NoParametersAreUpdatedWithoutAnError) {
  Execution execution;
  for (const auto& implementation : AdamWUpdateImplementations()) {
    const AdamWUpdateArgs args = Settings({}, 1);
    EXPECT_EQ(implementation.accepts(args), "");
    EXPECT_OK(RunOn(execution, implementation, args));
  }
}

TEST(AdamWUpdateTest, RejectsBadArguments) {
  Execution execution;
  Case c(8, DType::kF32, DType::kBf16);
  EXPECT_THAT(AdamWUpdate(execution, c.args(0)),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       HasSubstr("step: expected 1 or more (steps count from 1), got 0")));
  c.gradient = UniformTensor({8}, 1, DType::kBf16);
  EXPECT_THAT(AdamWUpdate(execution, c.args(1)),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       HasSubstr("norm.weight: gradient: expected f32, got bf16")));
  c.gradient = UniformTensor({7}, 1, DType::kF32);
  EXPECT_THAT(AdamWUpdate(execution, c.args(1)),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       HasSubstr("norm.weight: gradient: expected width 8, got 7")));
}

TEST(AdamWUpdateTest, RejectsParametersOfSeveralDTypesBeforeAnyIsUpdated) {
  Execution execution;
  Case c(8, DType::kF32, DType::kBf16), unchanged(8, DType::kF32, DType::kBf16);
  Case f64(8, DType::kF64, DType::kBf16), f32_copy(8, DType::kF32, DType::kF32);
  const auto update = [&](AdamWTensor second) {
    second.name = "second.weight";
    const AdamWTensor tensors[] = {c.tensor(), second};
    return AdamWUpdate(execution, Settings(tensors, 1));
  };
  EXPECT_THAT(update(f64.tensor()),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       HasSubstr("second.weight: parameter: expected f32, got f64")));
  EXPECT_THAT(update(f32_copy.tensor()),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       HasSubstr("second.weight: compute: expected bf16, got f32")));
  ExpectSameBits("parameter", c.parameter, unchanged.parameter);
}

}  // namespace
}  // namespace plait
