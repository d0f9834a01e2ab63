#include "kernels/piece_sum.h"

#include "kernels/reference/piece_sum.h"
#include "tests/support/device_execution.h"
#include "tests/support/random_tensor.h"
#include "tests/support/status_matchers.h"
#include "tests/support/tensor_matchers.h"

namespace plait {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

TEST(PieceSumTest, PiecesAreSummedBeforeTheyAreAdded) {
  // 1 is lost beside 2^24 in f32, 2 is not.
  const Tensor pieces = Tensor::FromValues<float>({2, 1}, {1, 1});
  for (const auto& implementation : PieceSumImplementations()) {
    Execution execution;
    Tensor total = Tensor::FromValues<float>({1}, {0x1p24f});
    ASSERT_OK(
        RunOn(execution, implementation, {.pieces = pieces.matrix(), .total = total.vector()}));
    EXPECT_THAT(total.values<float>(), ElementsAre(0x1p24f + 2)) << implementation.name;
  }
}

// The order of the sums is given, so that bits are equal.
TEST(PieceSumTest, ImplementationsGiveTheBitsOfTheReference) {
  Execution execution;
  for (const int64_t elements : {0, 1, 300, 1025}) {
    for (const auto& [dtype, total_dtype] : {std::pair{DType::kBf16, DType::kF32},
                                             {DType::kF32, DType::kF32},
                                             {DType::kF64, DType::kF64}}) {
      for (const bool rounds : {false, true}) {
        const Tensor pieces = UniformTensor({3, elements}, 1, dtype);
        Tensor expected = UniformTensor({elements}, 2, total_dtype);
        PieceSumArgs args{
            .pieces = pieces.matrix(), .round_to_bf16 = rounds, .total = expected.vector()};
        const Tensor before = expected.Clone();
        ASSERT_OK(reference::PieceSum(execution, args));
        for (const auto& implementation : PieceSumImplementations()) {
          SCOPED_TRACE(implementation.name);
          Tensor found = before.Clone();
          args.total = found.vector();
          ASSERT_OK(RunOn(execution, implementation, args));
          ExpectSameBits("total", found, expected);
        }
      }
    }
  }
}

TEST(PieceSumTest, PiecesOfAnotherPrecisionAreRefused) {
  Execution execution;
  const Tensor pieces = UniformTensor({2, 3}, 1, DType::kF64);
  Tensor total = Tensor::OnHost(DType::kF32, {3});
  EXPECT_THAT(PieceSum(execution, {.pieces = pieces.matrix(), .total = total.vector()}),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("pieces: expected f32")));
}

}  // namespace
}  // namespace plait
