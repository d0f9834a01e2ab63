#include "kernels/real_sums.h"

#include <algorithm>
#include <vector>

#include "kernels/reference/real_sums.h"
#include "tests/support/device_execution.h"
#include "tests/support/random_tensor.h"
#include "tests/support/reachable_vector.h"
#include "tests/support/status_matchers.h"
#include "tests/support/tensor_matchers.h"

namespace plait {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

Tensor Results(int64_t size) { return Tensor::OnHost(DType::kF64, {size}); }

// Zeros among ones.
Tensor Mask(int64_t rows, DType dtype) {
  Tensor mask = Tensor::OnHost(DType::kF64, {rows});
  for (int64_t r = 0; r < rows; ++r) mask.data<double>()[r] = r % 3 == 1 ? 0 : 1;
  return mask.Converted(dtype);
}

TEST(RealSumsTest, RowsAreSummedByHand) {
  Execution execution;
  const Tensor real = Tensor::FromValues<float>({3}, {1, 0, 1});
  const Tensor values = Tensor::FromValues<float>({3, 2}, {1, -2, 50, 60, 3, -4});
  Tensor sums = Results(2), squares = Results(2), maxima = Results(2);
  ASSERT_OK(RealRowSums(execution, {.real = real.vector(),
                                    .values = values.matrix(),
                                    .sums = sums.vector(),
                                    .maxima = maxima.vector()}));
  ASSERT_OK(RealRowSums(execution, {.real = real.vector(),
                                    .values = values.matrix(),
                                    .sum_of = SumOf::kSquares,
                                    .sums = squares.vector()}));
  EXPECT_THAT(sums.values<double>(), ElementsAre(4, -6));
  EXPECT_THAT(squares.values<double>(), ElementsAre(10, 20));
  EXPECT_THAT(maxima.values<double>(), ElementsAre(3, 0));
}

TEST(RealSumsTest, ExpertsAreSummedByHand) {
  Execution execution;
  const Tensor real = Tensor::FromValues<double>({2}, {1, 0});
  const ReachableVector<int32_t> choices = {2, 0, 0, 1}, token_row = {3, 0, 1, 2};
  const Tensor pair_weight = Tensor::FromValues<double>({4}, {0.5, 0.25, 1, 1});
  const Tensor square_sum = Tensor::FromValues<double>({4}, {1, 2, 4, 8});
  const Tensor absolute_max = Tensor::FromValues<double>({4}, {0.5, 9, 9, 0.25});
  Tensor tokens = Results(3), square_sums = Results(3), maxima = Results(3);
  ASSERT_OK(RealExpertSums(execution, {.real = real.vector(),
                                       .choices = choices.data(),
                                       .token_row = token_row.data(),
                                       .experts_per_token = 2,
                                       .pair_weight = pair_weight.vector(),
                                       .square_sum = square_sum.vector(),
                                       .absolute_max = absolute_max.vector(),
                                       .tokens = tokens.vector(),
                                       .square_sums = square_sums.vector(),
                                       .maxima = maxima.vector()}));
  EXPECT_THAT(tokens.values<double>(), ElementsAre(1, 0, 1));
  EXPECT_THAT(square_sums.values<double>(), ElementsAre(16, 0, 32));
  EXPECT_THAT(maxima.values<double>(), ElementsAre(2, 0, 0.5));
}

// Sums of f64 in another order.
constexpr double kSumError = 1e-13;

TEST(RealSumsTest, ImplementationsAgreeWithTheReference) {
  Execution execution;
  for (const auto& [rows, columns] : {std::pair<int64_t, int64_t>{0, 2}, {1, 1}, {1000, 7}}) {
    for (const DType dtype : {DType::kF32, DType::kF64}) {
      const Tensor real = Mask(rows, dtype);
      const Tensor values = UniformTensor({rows, columns}, 1, dtype);
      for (const SumOf sum_of : {SumOf::kValues, SumOf::kSquares}) {
        Tensor sums = Results(columns), maxima = Results(columns);
        RealRowSumsArgs args{.real = real.vector(),
                             .values = values.matrix(),
                             .sum_of = sum_of,
                             .sums = sums.vector(),
                             .maxima = maxima.vector()};
        ASSERT_OK(reference::RealRowSums(execution, args));
        for (const auto& implementation : RealRowSumsImplementations()) {
          SCOPED_TRACE(implementation.name);
          Tensor found_sums = Results(columns), found_maxima = Results(columns);
          args.sums = found_sums.vector();
          args.maxima = found_maxima.vector();
          ASSERT_OK(RunOn(execution, implementation, args));
          ExpectClose("sums", found_sums, sums, kSumError, kSumError * 1000);
          ExpectSameBits("maxima", found_maxima, maxima);
        }
      }
    }
  }
}

TEST(RealSumsTest, ExpertImplementationsAgreeWithTheReference) {
  Execution execution;
  constexpr int64_t kTokens = 700, kPerToken = 2, kExperts = 5;
  const Tensor real = Mask(kTokens, DType::kF32);
  ReachableVector<int32_t> choices, token_row;
  for (int32_t i = 0; i < kTokens * kPerToken; ++i) {
    choices.push_back(i * 7 % 4);  // the last expert has none
    token_row.push_back((i * 11) % static_cast<int32_t>(kTokens * kPerToken));
  }
  const Tensor pair_weight = UniformTensor({kTokens * kPerToken}, 4, DType::kF32, 0.1, 1);
  const Tensor square_sum = UniformTensor({kTokens * kPerToken}, 2, DType::kF32, 0, 1);
  const Tensor absolute_max = UniformTensor({kTokens * kPerToken}, 3, DType::kF32, 0, 1);
  Tensor tokens = Results(kExperts), square_sums = Results(kExperts), maxima = Results(kExperts);
  RealExpertSumsArgs args{.real = real.vector(),
                          .choices = choices.data(),
                          .token_row = token_row.data(),
                          .experts_per_token = kPerToken,
                          .pair_weight = pair_weight.vector(),
                          .square_sum = square_sum.vector(),
                          .absolute_max = absolute_max.vector(),
                          .tokens = tokens.vector(),
                          .square_sums = square_sums.vector(),
                          .maxima = maxima.vector()};
  ASSERT_OK(reference::RealExpertSums(execution, args));
  for (const auto& implementation : RealExpertSumsImplementations()) {
    SCOPED_TRACE(implementation.name);
    Tensor found[3] = {Results(kExperts), Results(kExperts), Results(kExperts)};
    args.tokens = found[0].vector();
    args.square_sums = found[1].vector();
    args.maxima = found[2].vector();
    ASSERT_OK(RunOn(execution, implementation, args));
    ExpectSameBits("tokens", found[0], tokens);
    ExpectClose("square_sums", found[1], square_sums, kSumError);
    ExpectSameBits("maxima", found[2], maxima);
  }
}

TEST(RealSumsTest, ResultsAreF64) {
  Execution execution;
  const Tensor real = Mask(3, DType::kF32), values = UniformTensor({3, 2}, 1, DType::kF32);
  Tensor sums = Tensor::OnHost(DType::kF32, {2});
  EXPECT_THAT(
      RealRowSums(execution,
                  {.real = real.vector(), .values = values.matrix(), .sums = sums.vector()}),
      StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("sums: expected f64")));
}

}  // namespace
}  // namespace plait
