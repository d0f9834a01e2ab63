#include "kernels/vocabulary_merge.h"

#include <cmath>

#include "kernels/reference/vocabulary_merge.h"
#include "tests/support/device_execution.h"
#include "tests/support/random_tensor.h"
#include "tests/support/status_matchers.h"
#include "tests/support/tensor_matchers.h"

namespace plait {
namespace {

using ::testing::HasSubstr;

TEST(VocabularyMergeTest, ByHand) {
  Execution execution;
  // Parts of one logit each: 1 and 2, the target in the second.
  const Tensor parts = Tensor::FromValues<double>({4, 1}, {1, 0, 2, 2});
  Tensor log_sum_exp = Tensor::OnHost(DType::kF64, {1});
  Tensor log_probability = Tensor::OnHost(DType::kF64, {1});
  ASSERT_OK(VocabularyMerge(execution, {.parts = parts.matrix(),
                                        .log_sum_exp = log_sum_exp.vector(),
                                        .log_probability = log_probability.vector()}));
  const double expected = std::log(std::exp(1.0) + std::exp(2.0));
  EXPECT_NEAR(log_sum_exp.data<double>()[0], expected, 1e-15);
  EXPECT_NEAR(log_probability.data<double>()[0], 2 - expected, 1e-15);
}

TEST(VocabularyMergeTest, ImplementationsAgreeWithTheReference) {
  Execution execution;
  for (const DType dtype : {DType::kF32, DType::kF64}) {
    for (const int64_t rows : {0, 1, 300}) {
      Tensor parts = UniformTensor({6, rows}, 1, dtype, -40, 40);
      Tensor log_sum_exp = Tensor::OnHost(dtype, {rows});
      Tensor log_probability = Tensor::OnHost(dtype, {rows});
      VocabularyMergeArgs args{.parts = parts.matrix(),
                               .log_sum_exp = log_sum_exp.vector(),
                               .log_probability = log_probability.vector()};
      ASSERT_OK(reference::VocabularyMerge(execution, args));
      for (const auto& implementation : VocabularyMergeImplementations()) {
        SCOPED_TRACE(implementation.name);
        Tensor found = Tensor::OnHost(dtype, {rows}), found_log = Tensor::OnHost(dtype, {rows});
        args.log_sum_exp = found.vector();
        args.log_probability = found_log.vector();
        ASSERT_OK(RunOn(execution, implementation, args));
        // Computed in f64, rounded once.
        ExpectClose("log_sum_exp", found, log_sum_exp, 2 * RoundingError(dtype));
        ExpectClose("log_probability", found_log, log_probability, 2 * RoundingError(dtype));
      }
    }
  }
}

TEST(VocabularyMergeTest, PartsComeInPairs) {
  Execution execution;
  const Tensor parts = UniformTensor({3, 2}, 1, DType::kF32);
  Tensor out = Tensor::OnHost(DType::kF32, {2});
  EXPECT_THAT(VocabularyMerge(execution, {.parts = parts.matrix(),
                                          .log_sum_exp = out.vector(),
                                          .log_probability = out.vector()}),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("two rows for each part")));
}

}  // namespace
}  // namespace plait
