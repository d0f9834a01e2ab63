#include "kernels/grouped_matmul.h"

#include <array>
#include <cmath>
#include <vector>

#include "kernels/cuda/library_grouped_matmul.h"
#include "kernels/reference/grouped_matmul.h"
#include "tests/support/device_execution.h"
#include "tests/support/finite_differences.h"
#include "tests/support/random_tensor.h"
#include "tests/support/simd_targets.h"
#include "tests/support/status_matchers.h"
#include "tests/support/tensor_matchers.h"

namespace plait {
namespace {

using ::testing::HasSubstr;

// Groups of the sizes given over rows gathered from `tokens` tokens; every token is used several
// times or never, out of order.
struct Case {
  Case(const std::vector<int32_t>& sizes, int64_t k_in, int64_t n_in, Transpose transpose,
       DType dtype, DType output)
      : groups(static_cast<int64_t>(sizes.size())), k(k_in), n(n_in), transpose_b(transpose) {
    offsets = {0};
    for (const int32_t size : sizes) offsets.push_back(offsets.back() + size);
    const int64_t rows = offsets.back(), tokens = rows / 2 + 1;
    row_index = Tensor::OnHost(DType::kI32, {rows});
    for (int64_t i = 0; i < rows; ++i) {
      row_index.data<int32_t>()[i] = static_cast<int32_t>((i * 7 + 3) % tokens);
    }
    tokens_matrix = UniformTensor({tokens, k + 3}, 1, dtype);
    weights = transpose == Transpose::kNo ? UniformTensor({groups * k, n}, 2, dtype)
                                          : UniformTensor({groups * n, k}, 2, dtype);
    out = UniformTensor({rows, n + 2}, 3, output);
    dout = UniformTensor({rows, n}, 4, dtype);
    dweights = UniformTensor({groups * n, k + 1}, 5, StatisticsDType(dtype));
  }

  // out = gathered tokens x weights
  GroupedMatmulArgs forward() {
    return {.a = tokens_matrix.columns(1, k),
            .row_index = row_index.data<int32_t>(),
            .offsets = offsets.data(),
            .groups = groups,
            .b = weights.matrix(),
            .transpose_b = transpose_b,
            .c = out.columns(1, n)};
  }
  // dweights [groups x n, k] += dout^T x gathered tokens
  GroupedWeightGradientArgs weight_gradient() {
    return {.a = dout.matrix(),
            .b = tokens_matrix.columns(1, k),
            .row_index = row_index.data<int32_t>(),
            .offsets = offsets.data(),
            .groups = groups,
            .c = dweights.columns(1, k)};
  }

  int64_t groups, k, n;
  Transpose transpose_b;
  std::vector<int32_t> offsets;
  Tensor row_index, tokens_matrix, weights, out, dout, dweights;
};

const std::vector<std::vector<int32_t>>& GroupSizes() {
  static const auto* sizes = new std::vector<std::vector<int32_t>>{
      {5, 0, 13, 1}, {0, 0, 0, 40}, {30}, {1, 1, 1, 1, 0}, {0, 0}, {600, 3}};
  return *sizes;
}

// A sum of `terms` products of magnitude at most 1, one addend, and one rounding of the result.
double Bound(double terms, DType output) {
  terms += 1;
  return terms * terms * RoundingError(StatisticsDType(output)) +
         (output == DType::kBf16 ? 2 * terms * RoundingError(output) : 0);
}

void ExpectImplementationsAgree(DeviceKind device) {
  Execution execution({.num_threads = 2});
  for (const auto& sizes : GroupSizes()) {
    // Slow where a device is emulated; TilesAgreeWithTheReference has groups of several tiles.
    if (device == DeviceKind::kCuda && sizes.front() > 500) continue;
    for (const auto& [k, n] : {std::pair<int64_t, int64_t>{1, 1}, {40, 19}, {9, 70}}) {
      for (const auto& [dtype, output] : {std::pair{DType::kF32, DType::kF32},
                                          {DType::kBf16, DType::kBf16},
                                          {DType::kBf16, DType::kF32}}) {
        for (const Transpose transpose : {Transpose::kNo, Transpose::kYes}) {
          for (const bool gathered : {true, false}) {
            const auto make = [&, k = k, n = n, dtype = dtype, output = output] {
              Case made(sizes, k, n, transpose, dtype, output);
              if (!gathered) {
                made.tokens_matrix = UniformTensor({made.out.shape()[0], k + 3}, 1, dtype);
              }
              return made;
            };
            Case expected = make();
            GroupedMatmulArgs forward = expected.forward();
            GroupedWeightGradientArgs gradient = expected.weight_gradient();
            if (!gathered) forward.row_index = gradient.row_index = nullptr;
            ASSERT_OK(reference::GroupedMatmul(execution, forward));
            ASSERT_OK(reference::GroupedWeightGradient(execution, gradient));
            for (const auto& implementation : GroupedMatmulImplementations()) {
              if (implementation.device != device) continue;
              SCOPED_TRACE(implementation.name);
              Case found = make();
              forward.c = found.forward().c;
              if (!implementation.accepts(forward).empty()) continue;
              ASSERT_OK(RunOn(execution, implementation, forward));
              ExpectClose("out", found.out, expected.out, 0, Bound(static_cast<double>(k), output));
            }
            for (const auto& implementation : GroupedWeightGradientImplementations()) {
              if (implementation.device != device) continue;
              SCOPED_TRACE(implementation.name);
              Case found = make();
              gradient.c = found.weight_gradient().c;
              if (!implementation.accepts(gradient).empty()) continue;
              ASSERT_OK(RunOn(execution, implementation, gradient));
              ExpectClose(
                  "dweights", found.dweights, expected.dweights, 0,
                  Bound(static_cast<double>(expected.offsets.back()), expected.dweights.dtype()));
            }
          }
        }
      }
    }
  }
}

TEST(GroupedMatmulTest, ImplementationsAgreeWithTheReference) {
  ForEachSimdTarget([] { ExpectImplementationsAgree(DeviceKind::kCpu); });
  ExpectImplementationsAgree(DeviceKind::kCuda);
}

// Tiles of a device: groups that end inside of one, at its end and behind it, inner sizes that do
// not, and rows that are read 16 bytes at once or (from the second column on) are not.
TEST(GroupedMatmulTest, TilesAgreeWithTheReference) {
  Execution execution({.num_threads = 2});
  for (const auto& [dtype, output] : {std::pair{DType::kBf16, DType::kBf16},
                                      {DType::kBf16, DType::kF32},
                                      {DType::kF32, DType::kF32},
                                      {DType::kF64, DType::kF64}}) {
    for (const Transpose transpose : {Transpose::kNo, Transpose::kYes}) {
      for (const auto& [k, n, begin] :
           {std::array<int64_t, 3>{72, 136, 0}, {80, 20, 1}, {35, 131, 0}}) {
        const std::vector<int32_t> sizes = {0, 5, 128, 0, 131, 0};
        const auto make = [&, k = k, n = n, begin = begin, dtype = dtype, output = output] {
          Case made(sizes, k, n, transpose, dtype, output);
          // NaN beside the columns that are read.
          Tensor tokens = UniformTensor({made.tokens_matrix.shape()[0], (k + 15) / 8 * 8}, 1);
          const MatrixView view = tokens.matrix();
          for (int64_t r = 0; r < view.rows; ++r) {
            for (int64_t c = 0; c < view.columns; ++c) {
              if (c < begin || c >= begin + k) view.row<double>(r)[c] = std::nan("");
            }
          }
          made.tokens_matrix = tokens.Converted(dtype);
          made.out = UniformTensor({made.out.shape()[0], (n + 15) / 8 * 8}, 3, output);
          return made;
        };
        Case expected = make();
        GroupedMatmulArgs forward = expected.forward();
        GroupedWeightGradientArgs gradient = expected.weight_gradient();
        forward.a = gradient.b = expected.tokens_matrix.columns(begin, k);
        forward.c = expected.out.columns(begin, n);
        ASSERT_OK(reference::GroupedMatmul(execution, forward));
        ASSERT_OK(reference::GroupedWeightGradient(execution, gradient));
        for (const auto& implementation : GroupedMatmulImplementations()) {
          SCOPED_TRACE(testing::Message() << implementation.name << " " << Name(dtype) << " " << k);
          Case found = make();
          forward.c = found.out.columns(begin, n);
          if (!implementation.accepts(forward).empty()) continue;
          ASSERT_OK(RunOn(execution, implementation, forward));
          ExpectClose("out", found.out, expected.out, 0, Bound(static_cast<double>(k), output));
        }
        for (const auto& implementation : GroupedWeightGradientImplementations()) {
          SCOPED_TRACE(testing::Message() << implementation.name << " " << Name(dtype) << " " << k);
          Case found = make();
          gradient.c = found.weight_gradient().c;
          if (!implementation.accepts(gradient).empty()) continue;
          ASSERT_OK(RunOn(execution, implementation, gradient));
          ExpectClose("dweights", found.dweights, expected.dweights, 0,
                      Bound(131, expected.dweights.dtype()));
        }
      }
    }
  }
}

// What serves coarse groups on a device, on small ones; the first group takes two pieces of
// gathered rows.
TEST(GroupedMatmulTest, ProductsByGroupAgreeWithTheReference) {
  Execution* cuda = CudaExecution();
  if (cuda == nullptr) GTEST_SKIP() << "no device";
  Execution execution;
  const std::vector<int32_t> sizes = {8200, 0, 3};
  for (const auto& [dtype, output] :
       {std::pair{DType::kBf16, DType::kF32}, {DType::kF64, DType::kF64}}) {
    for (const bool gathered : {true, false}) {
      Case expected(sizes, 3, 5, Transpose::kYes, dtype, output);
      Case found(sizes, 3, 5, Transpose::kYes, dtype, output);
      if (!gathered) {
        expected.tokens_matrix = found.tokens_matrix = UniformTensor({8203, 6}, 1, dtype);
      }
      const auto forward = [&](Case& c) {
        GroupedMatmulArgs args = c.forward();
        if (!gathered) args.row_index = nullptr;
        return args;
      };
      const auto gradient = [&](Case& c) {
        GroupedWeightGradientArgs args = c.weight_gradient();
        if (!gathered) args.row_index = nullptr;
        return args;
      };
      ASSERT_OK(reference::GroupedMatmul(execution, forward(expected)));
      ASSERT_OK(reference::GroupedWeightGradient(execution, gradient(expected)));
      ASSERT_OK(cuda::LibraryGroupedMatmul(*cuda, forward(found)));
      ASSERT_OK(cuda::LibraryGroupedWeightGradient(*cuda, gradient(found)));
      ASSERT_OK(cuda->compute().Synchronize());
      ExpectClose("out", found.out, expected.out, 0, Bound(3, output));
      // 8200 additions to partial sums that stay below 100; a lost piece changes sums by about 1.
      ExpectClose("dweights", found.dweights, expected.dweights, 0,
                  8200 * 100 * RoundingError(output));
    }
  }
}

TEST(GroupedMatmulTest, TheLibraryServesCoarseGroupsAlone) {
  const std::vector<int32_t> offsets = {0, 256, 512};
  std::vector<int32_t> data(1);
  const auto args = [&](int64_t rows, int64_t n) {
    return GroupedMatmulArgs{.a = {data.data(), DType::kBf16, rows, 4096, 4096},
                             .offsets = offsets.data(),
                             .groups = 2,
                             .b = {data.data(), DType::kBf16, 2 * 4096, n, n},
                             .c = {data.data(), DType::kBf16, rows, n, n}};
  };
  EXPECT_EQ(cuda::AcceptsLibraryGroupedMatmul(args(512, 2048)), "");
  EXPECT_EQ(cuda::AcceptsLibraryGroupedMatmul(args(511, 2048)),
            "511 rows in 2 groups, fewer than 256 a group");
  EXPECT_EQ(cuda::AcceptsLibraryGroupedMatmul(args(512, 2047)), "8384512 weights a group");
}

TEST(GroupedMatmulTest, ThreadsDoNotChangeBits) {
  Execution one({.num_threads = 1}), three({.num_threads = 3});
  for (const DType dtype : {DType::kBf16, DType::kF32}) {
    const std::vector<int32_t> sizes = {40, 0, 300, 7, 1};
    Case a(sizes, 300, 70, Transpose::kYes, dtype, dtype);
    Case b(sizes, 300, 70, Transpose::kYes, dtype, dtype);
    ASSERT_OK(GroupedMatmul(one, a.forward()));
    ASSERT_OK(GroupedMatmul(three, b.forward()));
    ExpectSameBits("out", a.out, b.out);
    ASSERT_OK(GroupedWeightGradient(one, a.weight_gradient()));
    ASSERT_OK(GroupedWeightGradient(three, b.weight_gradient()));
    ExpectSameBits("dweights", a.dweights, b.dweights);
  }
}

// A token's result is the same whatever else its expert was given: packed documents and cached
// generation rely on it.
TEST(GroupedMatmulTest, RowsDoNotDependOnTheirGroup) {
  Execution execution({.num_threads = 2});
  const auto run = [&](DeviceKind device, const GroupedMatmulArgs& args) {
    if (device == DeviceKind::kCpu) return GroupedMatmul(execution, args);
    return RunOn(execution, GroupedMatmulImplementations().back(), args);
  };
  ASSERT_EQ(GroupedMatmulImplementations().back().name, "cuda");
  for (const DeviceKind device : {DeviceKind::kCpu, DeviceKind::kCuda}) {
    for (const DType dtype : {DType::kBf16, DType::kF32}) {
      SCOPED_TRACE(testing::Message()
                   << Name(dtype) << (device == DeviceKind::kCuda ? " cuda" : ""));
      Case among({40, 130}, 300, 70, Transpose::kYes, dtype, dtype);
      ASSERT_OK(run(device, among.forward()));
      Case alone({1, 1}, 300, 70, Transpose::kYes, dtype, dtype);
      alone.tokens_matrix = among.tokens_matrix;
      alone.row_index = Tensor::FromValues<int32_t>(
          {2}, {among.row_index.data<int32_t>()[17], among.row_index.data<int32_t>()[162]});
      ASSERT_OK(run(device, alone.forward()));
      const auto row = [](const Tensor& out, int64_t r) {
        return out.Converted(DType::kF32).Slice(r, r + 1).Reshape({72}).Slice(1, 71);
      };
      ExpectSameBits("first group", row(alone.out, 0), row(among.out, 17));
      ExpectSameBits("second group", row(alone.out, 1), row(among.out, 162));
    }
  }
}

TEST(GroupedMatmulTest, Bf16AndF32HaveMoreThanTheReference) {
  for (const DType dtype : {DType::kBf16, DType::kF32}) {
    Case c({5, 3}, 4, 3, Transpose::kNo, dtype, dtype);
    int accepted = 0;
    for (const auto& implementation : GroupedMatmulImplementations()) {
      accepted += implementation.accepts(c.forward()).empty() ? 1 : 0;
    }
    for (const auto& implementation : GroupedWeightGradientImplementations()) {
      accepted += implementation.accepts(c.weight_gradient()).empty() ? 1 : 0;
    }
    EXPECT_GE(accepted, dtype == DType::kF32 ? 6 : 4) << Name(dtype);
  }
}

TEST(GroupedMatmulTest, WeightGradientMatchesFiniteDifferences) {
  Execution execution;
  Case c({2, 0, 3}, 4, 3, Transpose::kYes, DType::kF64, DType::kF64);
  GroupedWeightGradientArgs args = c.weight_gradient();
  c.dweights = Tensor::OnHost(DType::kF64, {9, 4});
  args.c = c.dweights.matrix();
  ASSERT_OK(GroupedWeightGradient(execution, args));
  GroupedMatmulArgs forward = c.forward();
  c.out = Tensor::OnHost(DType::kF64, {5, 3});
  forward.c = c.out.matrix();
  const auto loss = [&] {
    EXPECT_OK(GroupedMatmul(execution, forward));
    return WeightedSum(c.out, c.dout);
  };
  ExpectGradientMatches("weights", c.weights, c.dweights, loss);
}

TEST(GroupedMatmulTest, RejectsOffsetsThatDoNotCoverTheRows) {
  Execution execution;
  Case c({2, 3}, 4, 3, Transpose::kNo, DType::kF32, DType::kF32);
  c.offsets = {0, 2, 4};
  EXPECT_THAT(GroupedMatmul(execution, c.forward()),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       HasSubstr("offsets[2]: expected 5 rows, got 4")));
  c.offsets = {0, 6, 5};
  EXPECT_THAT(GroupedWeightGradient(execution, c.weight_gradient()),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       HasSubstr("offsets[2]: expected at least 6, got 5")));
}

TEST(GroupedMatmulTest, RejectsAGatheredRowThatIsNotThere) {
  Execution execution;
  Case c({2, 3}, 4, 3, Transpose::kNo, DType::kF32, DType::kF32);
  c.row_index.data<int32_t>()[4] = 3;
  for (const absl::Status& status : {GroupedMatmul(execution, c.forward()),
                                     GroupedWeightGradient(execution, c.weight_gradient())}) {
    EXPECT_THAT(status, StatusIs(absl::StatusCode::kInvalidArgument,
                                 HasSubstr("row_index[4]: expected a row below 3, got 3")));
  }
}

TEST(GroupedMatmulTest, RejectsWeightsOfAnotherShape) {
  Execution execution;
  Case c({2, 3}, 4, 3, Transpose::kNo, DType::kF32, DType::kF32);
  c.weights = UniformTensor({8, 4}, 1, DType::kF32);
  EXPECT_THAT(
      GroupedMatmul(execution, c.forward()),
      StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("b: expected [8, 3], got [8, 4]")));
}

}  // namespace
}  // namespace plait
