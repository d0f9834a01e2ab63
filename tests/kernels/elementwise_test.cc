#include "kernels/elementwise.h"

#include "kernels/reference/elementwise.h"
#include "tests/support/device_execution.h"
#include "tests/support/random_tensor.h"
#include "tests/support/simd_targets.h"
#include "tests/support/status_matchers.h"
#include "tests/support/tensor_matchers.h"

namespace plait {
namespace {

using ::testing::HasSubstr;

constexpr DType kStored[] = {DType::kBf16, DType::kF32};

struct AddCase {
  AddCase(int64_t rows, int64_t columns, DType a_dtype, DType b_dtype, DType out_dtype)
      : a(UniformTensor({rows, columns}, 1, a_dtype)),
        b(UniformTensor({rows, columns}, 2, b_dtype)),
        row_scale(UniformTensor({rows}, 3, StatisticsDType(b_dtype))),
        out(UniformTensor({rows, columns}, 4, out_dtype)) {}
  ScaledAddArgs args() {
    return {.a = a.matrix(),
            .b = b.matrix(),
            .scale = 0.75,
            .row_scale = row_scale.vector(),
            .out = out.matrix()};
  }
  ScaledAddArgs cast() { return {.b = b.matrix(), .out = out.matrix()}; }
  Tensor a, b, row_scale, out;
};

TEST(ScaledAddTest, ReferenceIsTheFormula) {
  Execution execution;
  Tensor a = Tensor::FromValues<double>({2, 2}, {1, 2, 3, 4});
  Tensor b = Tensor::FromValues<double>({2, 2}, {10, 20, 30, 40});
  Tensor row_scale = Tensor::FromValues<double>({2}, {1, -2});
  Tensor out = Tensor::OnHost(DType::kF64, {2, 2});
  ASSERT_OK(ScaledAdd(execution, {.a = a.matrix(),
                                  .b = b.matrix(),
                                  .scale = 0.5,
                                  .row_scale = row_scale.vector(),
                                  .out = out.matrix()}));
  EXPECT_THAT(out.values<double>(), ::testing::ElementsAre(6, 12, -27, -36));
}

void ExpectScaledAddAgreesFor(DType a_dtype, DType b_dtype, DType out_dtype) {
  Execution execution({.num_threads = 2});
  for (const int64_t columns : {1, 7, 64, 129, 5003}) {
    AddCase expected(3, columns, a_dtype, b_dtype, out_dtype);
    AddCase expected_cast(3, columns, a_dtype, b_dtype, out_dtype);
    ASSERT_OK(reference::ScaledAdd(execution, expected.args()));
    ASSERT_OK(reference::ScaledAdd(execution, expected_cast.cast()));
    for (const auto& implementation : ScaledAddImplementations()) {
      SCOPED_TRACE(implementation.name);
      AddCase found(3, columns, a_dtype, b_dtype, out_dtype);
      if (!implementation.accepts(found.args()).empty()) continue;
      ASSERT_OK(RunOn(execution, implementation, found.args()));
      // Two roundings of the product, one of the sum, and one to either side of a tie;
      // terms below 1, sums below 2.
      ExpectClose("out", found.out, expected.out, 0,
                  4 * RoundingError(out_dtype) + 4 * RoundingError(StatisticsDType(b_dtype)));
      ASSERT_OK(RunOn(execution, implementation, found.cast()));
      ExpectSameBits("cast", found.out, expected_cast.out);
    }
  }
}

void ExpectScaledAddAgrees() {
  for (const DType a_dtype : kStored) {
    for (const DType b_dtype : kStored) {
      for (const DType out_dtype : kStored) ExpectScaledAddAgreesFor(a_dtype, b_dtype, out_dtype);
    }
  }
  ExpectScaledAddAgreesFor(DType::kF64, DType::kF64, DType::kF64);
}

TEST(ScaledAddTest, ImplementationsAgreeWithTheReference) {
  ForEachSimdTarget(ExpectScaledAddAgrees);
}

TEST(ScaledAddTest, WritesOverItsInputs) {
  Execution execution;
  const auto make = [] { return AddCase(3, 100, DType::kBf16, DType::kBf16, DType::kBf16); };
  for (const auto& implementation : ScaledAddImplementations()) {
    SCOPED_TRACE(implementation.name);
    AddCase apart = make(), over_a = make(), over_b = make();
    ASSERT_OK(RunOn(execution, implementation, apart.args()));
    ScaledAddArgs args = over_a.args();
    args.out = over_a.a.matrix();
    ASSERT_OK(RunOn(execution, implementation, args));
    ExpectSameBits("over a", over_a.a, apart.out);
    args = over_b.args();
    args.out = over_b.b.matrix();
    ASSERT_OK(RunOn(execution, implementation, args));
    ExpectSameBits("over b", over_b.b, apart.out);
  }
}

// Rows apart by more than their width, aligned (32) and not (33), whole vectors and part of one;
// nothing beside the columns is touched.
TEST(ScaledAddTest, TakesColumnsOfAWiderMatrix) {
  Execution execution;
  for (const auto& [columns, begin] : {std::pair<int64_t, int64_t>{32, 32}, {29, 32}, {29, 33}}) {
    for (const auto& implementation : ScaledAddImplementations()) {
      SCOPED_TRACE(testing::Message() << implementation.name << " " << columns << " at " << begin);
      Tensor wide = UniformTensor({70, 64}, 1, DType::kBf16);
      Tensor b = UniformTensor({70, columns}, 2, DType::kBf16);
      Tensor expected = wide.Clone();
      for (const bool is_found : {false, true}) {
        Tensor& to = is_found ? wide : expected;
        const ScaledAddArgs args = {.a = to.columns(begin, columns),
                                    .b = b.matrix(),
                                    .scale = 0.5,
                                    .out = to.columns(begin, columns)};
        if (is_found)
          ASSERT_OK(RunOn(execution, implementation, args));
        else
          ASSERT_OK(reference::ScaledAdd(execution, args));
      }
      // A sum of two bf16 numbers is exact in f32 here: one rounding in either.
      ExpectSameBits("wide", wide, expected);
    }
  }
}

TEST(ScaledAddTest, ThreadsDoNotChangeBits) {
  Execution one({.num_threads = 1}), three({.num_threads = 3});
  AddCase a(3, 9001, DType::kF32, DType::kBf16, DType::kBf16);
  AddCase b(3, 9001, DType::kF32, DType::kBf16, DType::kBf16);
  ASSERT_OK(ScaledAdd(one, a.args()));
  ASSERT_OK(ScaledAdd(three, b.args()));
  ExpectSameBits("out", a.out, b.out);
}

TEST(ScaledAddTest, RejectsOutInTheMemoryOfAnotherDType) {
  Execution execution;
  AddCase c(3, 8, DType::kF32, DType::kF32, DType::kF32);
  ScaledAddArgs args = c.args();
  args.out = c.b.matrix();
  args.out.dtype = DType::kBf16;
  EXPECT_THAT(ScaledAdd(execution, args),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       HasSubstr("out in the memory of b: expected f32, got bf16")));
}

TEST(ScaledAddTest, RejectsAnotherShape) {
  Execution execution;
  AddCase c(3, 8, DType::kF32, DType::kF32, DType::kF32);
  c.a = UniformTensor({3, 7}, 1, DType::kF32);
  EXPECT_THAT(
      ScaledAdd(execution, c.args()),
      StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("a: expected [3, 8], got [3, 7]")));
}

TEST(ColumnSumTest, ReferenceAddsTheColumns) {
  Execution execution;
  Tensor x = Tensor::FromValues<double>({3, 2}, {1, 10, 2, 20, 3, 30});
  Tensor sums = Tensor::FromValues<double>({2}, {100, 200});
  ASSERT_OK(ColumnSum(execution, {.x = x.matrix(), .sums = sums.vector()}));
  EXPECT_THAT(sums.values<double>(), ::testing::ElementsAre(106, 260));
}

// 700 rows are more than one block of the device sums.
void ExpectColumnSumAgrees() {
  Execution execution({.num_threads = 2});
  for (const DType dtype : {DType::kBf16, DType::kF32, DType::kF64}) {
    const DType sum_dtype = StatisticsDType(dtype);
    for (const auto& [rows, columns] :
         {std::pair<int64_t, int64_t>{33, 1}, {33, 7}, {33, 64}, {33, 700}, {700, 129}}) {
      // A wider matrix: its columns leave part of a vector, its rows stay aligned.
      Tensor wide = UniformTensor({rows, (columns + 15) / 8 * 8}, 1, dtype);
      const ConstMatrixView x = wide.columns(0, columns);
      Tensor expected = UniformTensor({columns}, 2, sum_dtype);
      ASSERT_OK(reference::ColumnSum(execution, {.x = x, .sums = expected.vector()}));
      for (const auto& implementation : ColumnSumImplementations()) {
        SCOPED_TRACE(implementation.name);
        Tensor found = UniformTensor({columns}, 2, sum_dtype);
        const ColumnSumArgs args = {.x = x, .sums = found.vector()};
        if (!implementation.accepts(args).empty()) continue;
        ASSERT_OK(RunOn(execution, implementation, args));
        // Terms of at most 1, one more than rows, each sum rounding at most so many units.
        const double terms = static_cast<double>(rows + 1);
        ExpectClose("sums", found, expected, 0, terms * terms * RoundingError(sum_dtype));
      }
    }
  }
}

TEST(ColumnSumTest, ImplementationsAgreeWithTheReference) {
  ForEachSimdTarget(ExpectColumnSumAgrees);
}

TEST(ColumnSumTest, ThreadsDoNotChangeBits) {
  Execution one({.num_threads = 1}), three({.num_threads = 3});
  Tensor x = UniformTensor({200, 333}, 1, DType::kBf16);
  Tensor a = Tensor::OnHost(DType::kF32, {333}), b = Tensor::OnHost(DType::kF32, {333});
  ASSERT_OK(ColumnSum(one, {.x = x.matrix(), .sums = a.vector()}));
  ASSERT_OK(ColumnSum(three, {.x = x.matrix(), .sums = b.vector()}));
  ExpectSameBits("sums", a, b);
}

TEST(ColumnSumTest, RejectsSumsOfAnotherWidth) {
  Execution execution;
  Tensor x = UniformTensor({3, 8}, 1, DType::kF32), sums = Tensor::OnHost(DType::kF32, {7});
  EXPECT_THAT(
      ColumnSum(execution, {.x = x.matrix(), .sums = sums.vector()}),
      StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("sums: expected width 8, got 7")));
}

TEST(RowStatisticsTest, ReferenceIsTheFormula) {
  Execution execution;
  Tensor x = Tensor::FromValues<double>({2, 2}, {3, -4, 0, 1});
  Tensor squares = Tensor::OnHost(DType::kF64, {2}), largest = Tensor::OnHost(DType::kF64, {2});
  ASSERT_OK(RowStatistics(
      execution,
      {.x = x.matrix(), .square_sum = squares.vector(), .absolute_max = largest.vector()}));
  EXPECT_THAT(squares.values<double>(), ::testing::ElementsAre(25, 1));
  EXPECT_THAT(largest.values<double>(), ::testing::ElementsAre(4, 1));
}

// 2000 columns are more than a warp of the device walks over, 11 rows more than a block has warps.
void ExpectRowStatisticsAgree() {
  Execution execution({.num_threads = 2});
  for (const DType dtype : {DType::kBf16, DType::kF32, DType::kF64}) {
    const DType sum_dtype = StatisticsDType(dtype);
    for (const int64_t columns : {1, 7, 64, 129, 2000}) {
      Tensor wide = UniformTensor({11, (columns + 15) / 8 * 8}, 1, dtype);
      const ConstMatrixView x = wide.columns(0, columns);
      Tensor squares = Tensor::OnHost(sum_dtype, {11}), largest = Tensor::OnHost(sum_dtype, {11});
      ASSERT_OK(reference::RowStatistics(
          execution, {.x = x, .square_sum = squares.vector(), .absolute_max = largest.vector()}));
      for (const auto& implementation : RowStatisticsImplementations()) {
        SCOPED_TRACE(implementation.name);
        Tensor found_squares = Tensor::OnHost(sum_dtype, {11});
        Tensor found_largest = Tensor::OnHost(sum_dtype, {11});
        const RowStatisticsArgs args = {
            .x = x, .square_sum = found_squares.vector(), .absolute_max = found_largest.vector()};
        if (!implementation.accepts(args).empty()) continue;
        ASSERT_OK(RunOn(execution, implementation, args));
        // Positive terms: each of the sum's roundings is at most one unit of the result.
        ExpectClose("square_sum", found_squares, squares,
                    RoundingError(sum_dtype) * static_cast<double>(columns + 1));
        ExpectSameBits("absolute_max", found_largest, largest);
      }
    }
  }
}

TEST(RowStatisticsTest, ImplementationsAgreeWithTheReference) {
  ForEachSimdTarget(ExpectRowStatisticsAgree);
}

TEST(RowStatisticsTest, EitherOutputMayBeAbsent) {
  Execution execution;
  Tensor x = Tensor::FromValues<float>({1, 3}, {1, -2, 2}), one = Tensor::OnHost(DType::kF32, {1});
  ASSERT_OK(RowStatistics(execution, {.x = x.matrix(), .square_sum = one.vector()}));
  EXPECT_EQ(one.data<float>()[0], 9.0f);
  ASSERT_OK(RowStatistics(execution, {.x = x.matrix(), .absolute_max = one.vector()}));
  EXPECT_EQ(one.data<float>()[0], 2.0f);
}

TEST(RowStatisticsTest, ThreadsDoNotChangeBits) {
  Execution one({.num_threads = 1}), three({.num_threads = 3});
  Tensor x = UniformTensor({33, 200}, 1, DType::kBf16);
  Tensor a = Tensor::OnHost(DType::kF32, {33}), b = Tensor::OnHost(DType::kF32, {33});
  ASSERT_OK(RowStatistics(one, {.x = x.matrix(), .square_sum = a.vector()}));
  ASSERT_OK(RowStatistics(three, {.x = x.matrix(), .square_sum = b.vector()}));
  ExpectSameBits("square_sum", a, b);
}

TEST(RowStatisticsTest, RejectsAnotherNumberOfRows) {
  Execution execution;
  Tensor x = UniformTensor({3, 8}, 1, DType::kF32), sums = Tensor::OnHost(DType::kF32, {2});
  EXPECT_THAT(RowStatistics(execution, {.x = x.matrix(), .square_sum = sums.vector()}),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       HasSubstr("square_sum: expected width 3, got 2")));
}

}  // namespace
}  // namespace plait
