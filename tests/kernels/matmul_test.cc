#include "kernels/matmul.h"

#include <array>
#include <utility>

#include "kernels/reference/matmul.h"
#include "tests/support/device_execution.h"
#include "tests/support/finite_differences.h"
#include "tests/support/random_tensor.h"
#include "tests/support/simd_targets.h"
#include "tests/support/status_matchers.h"
#include "tests/support/tensor_matchers.h"

namespace plait {
namespace {

using ::testing::HasSubstr;

struct DTypes {
  DType a, b, c;
};

// Operands are column ranges of wider matrices, so that strides and neighbours are tested too.
struct Case {
  Case(int64_t m_in, int64_t n_in, int64_t k_in, Transpose ta, Transpose tb, DTypes dtypes)
      : m(m_in),
        n(n_in),
        k(k_in),
        transpose_a(ta),
        transpose_b(tb),
        a(ta == Transpose::kNo ? UniformTensor({m, k + 3}, 1, dtypes.a)
                               : UniformTensor({k, m + 3}, 1, dtypes.a)),
        b(tb == Transpose::kNo ? UniformTensor({k, n + 5}, 2, dtypes.b)
                               : UniformTensor({n, k + 5}, 2, dtypes.b)),
        c(UniformTensor({m, n + 2}, 3, dtypes.c)),
        bias(UniformTensor({n}, 4, dtypes.c)) {}

  MatmulArgs args() {
    return {.a = a.columns(2, transpose_a == Transpose::kNo ? k : m),
            .b = b.columns(1, transpose_b == Transpose::kNo ? n : k),
            .transpose_a = transpose_a,
            .transpose_b = transpose_b,
            .c = c.columns(1, n)};
  }
  MatmulArgs accumulating() {
    MatmulArgs with = args();
    with.accumulate = Accumulate::kYes;
    return with;
  }
  MatmulArgs biased() {
    MatmulArgs with = args();
    with.bias = bias.vector();
    return with;
  }

  int64_t m, n, k;
  Transpose transpose_a, transpose_b;
  Tensor a, b, c, bias;
};

// Every element is at most 1 in magnitude, so that a sum of k products, one bias and one addend
// errs by at most (k + 2) roundings of k + 2; then the result is rounded once, to either side of a
// tie.
double Bound(int64_t k, DType c, DType sum = DType::kF32) {
  const auto terms = static_cast<double>(k + 2);
  return terms * terms * RoundingError(sum) +
         (c == DType::kBf16 ? 2 * terms * RoundingError(c) : 0);
}

void ExpectImplementationsAgree() {
  Execution execution({.num_threads = 2});
  constexpr DTypes kDTypes[] = {
      {DType::kF32, DType::kF32, DType::kF32},   {DType::kBf16, DType::kBf16, DType::kBf16},
      {DType::kBf16, DType::kBf16, DType::kF32}, {DType::kBf16, DType::kF32, DType::kF32},
      {DType::kF32, DType::kBf16, DType::kBf16}, {DType::kF64, DType::kF64, DType::kF64},
      {DType::kF64, DType::kBf16, DType::kF32},  {DType::kBf16, DType::kBf16, DType::kF64}};
  constexpr int64_t kSizes[][3] = {{1, 1, 1},  {1, 40, 70},  {3, 7, 0},    {5, 7, 3},
                                   {14, 3, 9}, {33, 65, 47}, {50, 9, 600}, {3, 1100, 5}};
  for (const auto& [m, n, k] : kSizes) {
    for (const DTypes& dtypes : kDTypes) {
      for (const Transpose transpose_a : {Transpose::kNo, Transpose::kYes}) {
        for (const Transpose transpose_b : {Transpose::kNo, Transpose::kYes}) {
          const auto make = [&] { return Case(m, n, k, transpose_a, transpose_b, dtypes); };
          Case plain = make(), biased = make(), accumulated = make();
          ASSERT_OK(reference::Matmul(execution, plain.args()));
          ASSERT_OK(reference::Matmul(execution, biased.biased()));
          ASSERT_OK(reference::Matmul(execution, accumulated.accumulating()));
          const bool wide = dtypes.a == DType::kF64 && dtypes.c == DType::kF64;
          const double bound = Bound(k, dtypes.c, wide ? DType::kF64 : DType::kF32);
          for (const auto& implementation : MatmulImplementations()) {
            SCOPED_TRACE(testing::Message()
                         << implementation.name << " " << m << " " << n << " " << k << " "
                         << Name(dtypes.a) << " " << Name(dtypes.b) << " " << Name(dtypes.c)
                         << " transposed " << (transpose_a == Transpose::kYes)
                         << (transpose_b == Transpose::kYes));
            Case found = make();
            if (implementation.accepts(found.args()).empty()) {
              ASSERT_OK(RunOn(execution, implementation, found.args()));
              ExpectClose("c", found.c, plain.c, 0, bound);
            }
            found = make();
            if (implementation.accepts(found.biased()).empty()) {
              ASSERT_OK(RunOn(execution, implementation, found.biased()));
              ExpectClose("c with bias", found.c, biased.c, 0, bound);
            }
            found = make();
            if (dtypes.c != DType::kBf16 && implementation.accepts(found.accumulating()).empty()) {
              ASSERT_OK(RunOn(execution, implementation, found.accumulating()));
              ExpectClose("c accumulated", found.c, accumulated.c, 0, bound);
            }
          }
        }
      }
    }
  }
}

TEST(MatmulTest, ImplementationsAgreeWithTheReference) {
  ForEachSimdTarget(ExpectImplementationsAgree);
}

// One rounding at the output, whatever the bias comes in.
TEST(MatmulTest, BiasOfAnotherDTypeIsAddedBeforeTheRounding) {
  Execution execution;
  for (const auto& [dtype, c, bias] : {std::array{DType::kBf16, DType::kBf16, DType::kF32},
                                       {DType::kBf16, DType::kF32, DType::kBf16},
                                       {DType::kF32, DType::kF32, DType::kF64},
                                       {DType::kF64, DType::kF64, DType::kF32}}) {
    const auto make = [dtype = dtype, c = c, bias = bias] {
      Case made(5, 33, 20, Transpose::kNo, Transpose::kYes, {dtype, dtype, c});
      made.bias = UniformTensor({33}, 4, bias);
      return made;
    };
    Case expected = make();
    ASSERT_OK(reference::Matmul(execution, expected.biased()));
    for (const auto& implementation : MatmulImplementations()) {
      SCOPED_TRACE(testing::Message() << implementation.name << " " << Name(dtype) << Name(bias));
      Case found = make();
      if (!implementation.accepts(found.biased()).empty()) continue;
      ASSERT_OK(RunOn(execution, implementation, found.biased()));
      ExpectClose("c", found.c, expected.c, 0, Bound(20, c));
    }
  }
}

constexpr DTypes kBf16InAndOut = {DType::kBf16, DType::kBf16, DType::kBf16};
constexpr DTypes kBf16InF32Out = {DType::kBf16, DType::kBf16, DType::kF32};
constexpr DTypes kF32InAndOut = {DType::kF32, DType::kF32, DType::kF32};

// Sizes above one block of the inner sum, one block of rows and one tile of columns.
TEST(MatmulTest, LargeProductsAgreeWithTheReference) {
  Execution execution({.num_threads = 2});
  for (const DTypes& dtypes : {kF32InAndOut, kBf16InAndOut, kBf16InF32Out}) {
    for (const auto& [m, n, k] : {std::array<int64_t, 3>{205, 70, 530}, {31, 600, 300}}) {
      Case expected(m, n, k, Transpose::kNo, Transpose::kYes, dtypes);
      ASSERT_OK(reference::Matmul(execution, expected.args()));
      for (const auto& implementation : MatmulImplementations()) {
        SCOPED_TRACE(implementation.name);
        Case found(m, n, k, Transpose::kNo, Transpose::kYes, dtypes);
        if (!implementation.accepts(found.args()).empty()) continue;
        ASSERT_OK(RunOn(execution, implementation, found.args()));
        ExpectClose("c", found.c, expected.c, 0, Bound(k, dtypes.c));
      }
    }
  }
}

// Bits of c on one thread, against several, for shapes that are cut by rows and by columns.
TEST(MatmulTest, ThreadsDoNotChangeBits) {
  Execution one({.num_threads = 1});
  for (const int threads : {2, 3, 7}) {
    Execution several({.num_threads = threads});
    for (const DTypes& dtypes : {kF32InAndOut, kBf16InAndOut, kBf16InF32Out}) {
      for (const auto& [m, n, k] :
           {std::array<int64_t, 3>{301, 40, 290}, {7, 901, 290}, {83, 110, 530}, {700, 65, 1030}}) {
        Case a(m, n, k, Transpose::kNo, Transpose::kYes, dtypes);
        Case b(m, n, k, Transpose::kNo, Transpose::kYes, dtypes);
        b.c = a.c.Clone();
        ASSERT_OK(Matmul(one, a.args()));
        ASSERT_OK(Matmul(several, b.args()));
        ExpectSameBits("c", a.c, b.c);
      }
    }
  }
}

// A row of the product has the same bits alone, among others and elsewhere among them.
void ExpectRowsDoNotDependOnNeighbours() {
  constexpr int64_t kRows = 110, kColumns = 83, kInner = 530;
  Execution execution({.num_threads = 2});
  for (const DTypes& dtypes : {kF32InAndOut, kBf16InAndOut, kBf16InF32Out}) {
    const Tensor x = UniformTensor({kRows, kInner}, 1, dtypes.a);
    const Tensor w = UniformTensor({kColumns, kInner}, 2, dtypes.b);
    Tensor whole = Tensor::OnHost(dtypes.c, {kRows, kColumns});
    const auto multiply = [&](const ConstMatrixView& a, const ConstMatrixView& b, MatrixView c) {
      ASSERT_OK(Matmul(execution, {.a = a, .b = b, .transpose_b = Transpose::kYes, .c = c}));
    };
    multiply(x.matrix(), w.matrix(), whole.matrix());
    for (const auto& [begin, end] :
         {std::pair<int64_t, int64_t>{0, 1}, {5, 6}, {3, 8}, {97, 110}}) {
      Tensor part = Tensor::OnHost(dtypes.c, {end - begin, kColumns});
      multiply(x.Slice(begin, end).matrix(), w.matrix(), part.matrix());
      ExpectSameBits("rows", part, whole.Slice(begin, end));
    }
  }
}

TEST(MatmulTest, RowsDoNotDependOnTheirNeighbours) {
  ForEachSimdTarget(ExpectRowsDoNotDependOnNeighbours);
}

TEST(MatmulTest, GradientsByTransposedProductsMatchFiniteDifferences) {
  Execution execution;
  Tensor x = UniformTensor({3, 4}, 1), w = UniformTensor({5, 4}, 2), dy = UniformTensor({3, 5}, 3);
  Tensor y = Tensor::OnHost(DType::kF64, {3, 5});
  Tensor dx = Tensor::OnHost(DType::kF64, {3, 4}), dw = Tensor::OnHost(DType::kF64, {5, 4});
  ASSERT_OK(Matmul(execution, {.a = dy.matrix(), .b = w.matrix(), .c = dx.matrix()}));
  ASSERT_OK(Matmul(execution, {.a = dy.matrix(),
                               .b = x.matrix(),
                               .transpose_a = Transpose::kYes,
                               .c = dw.matrix(),
                               .accumulate = Accumulate::kYes}));
  const auto loss = [&] {
    EXPECT_OK(Matmul(
        execution,
        {.a = x.matrix(), .b = w.matrix(), .transpose_b = Transpose::kYes, .c = y.matrix()}));
    return WeightedSum(y, dy);
  };
  ExpectGradientMatches("x", x, dx, loss);
  ExpectGradientMatches("w", w, dw, loss);
}

TEST(MatmulTest, RejectsShapesThatDoNotAgree) {
  Execution execution;
  Tensor a = UniformTensor({3, 4}, 1), b = UniformTensor({5, 6}, 2), c = UniformTensor({3, 6}, 3);
  EXPECT_THAT(
      Matmul(execution, {.a = a.matrix(), .b = b.matrix(), .c = c.matrix()}),
      StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("b: expected [4, 6], got [5, 6]")));
}

TEST(MatmulTest, RejectsBiasOfAnotherWidthAndBiasBesideAccumulation) {
  Execution execution;
  Case c(3, 4, 5, Transpose::kNo, Transpose::kNo, {DType::kF32, DType::kF32, DType::kF32});
  MatmulArgs args = c.accumulating();
  args.bias = c.bias.vector();
  EXPECT_THAT(Matmul(execution, args),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("bias: cannot be added")));
  c.bias = UniformTensor({3}, 1, DType::kF32);
  EXPECT_THAT(Matmul(execution, c.biased()), StatusIs(absl::StatusCode::kInvalidArgument,
                                                      HasSubstr("bias: expected width 4, got 3")));
}

TEST(MatmulTest, RejectsAccumulationIntoBf16) {
  Execution execution;
  Case c(3, 4, 5, Transpose::kNo, Transpose::kNo, {DType::kF32, DType::kF32, DType::kBf16});
  EXPECT_THAT(Matmul(execution, c.accumulating()),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       HasSubstr("c: accumulation needs f32 or f64, got bf16")));
}

}  // namespace
}  // namespace plait
