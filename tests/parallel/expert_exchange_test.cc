#include "parallel/expert_exchange.h"

#include "base/random.h"
#include "base/status_macros.h"
#include "kernels/grouped_matmul.h"
#include "parallel/local_communicator.h"
#include "tests/support/random_tensor.h"
#include "tests/support/status_matchers.h"

namespace plait {
namespace {

using ::testing::HasSubstr;

constexpr int64_t kExperts = 4, kWidth = 6, kOut = 5;

struct Routed {
  Tensor rows;     // [rows, kWidth], sorted by expert
  Tensor offsets;  // i32 [experts + 1]
};

// Another number of rows for every rank and expert, some experts without any.
Routed RowsOfRank(int rank) {
  Routed routed;
  routed.offsets = Tensor::OnHost(DType::kI32, {kExperts + 1});
  for (int64_t e = 0; e < kExperts; ++e) {
    const int32_t rows = static_cast<int32_t>((3 * rank + 2 * e + 1) % 4);
    routed.offsets.data<int32_t>()[e + 1] = routed.offsets.data<int32_t>()[e] + rows;
  }
  routed.rows = UniformTensor({routed.offsets.data<int32_t>()[kExperts], kWidth},
                              static_cast<uint64_t>(rank + 1), DType::kF64);
  return routed;
}

Tensor Weights() { return UniformTensor({kExperts, kOut, kWidth}, 99, DType::kF64); }

// results = rows of every expert times its weight, [experts, kOut, kWidth].
absl::Status Apply(Execution& execution, const Tensor& rows, const Tensor& weights,
                   const Tensor& offsets, Tensor& results) {
  const int64_t experts = weights.shape()[0];
  return GroupedMatmul(execution, {.a = rows.matrix(),
                                   .offsets = offsets.data<int32_t>(),
                                   .groups = experts,
                                   .b = weights.Reshape({experts * kOut, kWidth}).matrix(),
                                   .transpose_b = Transpose::kYes,
                                   .c = results.matrix()});
}

// Experts on all ranks, and experts split over them: the same results, row by row.
class ExpertExchangeTest : public ::testing::TestWithParam<int> {};

TEST_P(ExpertExchangeTest, SplitExpertsGiveWhatWholeOnesDo) {
  EXPECT_OK(
      RunLocalRanks(GetParam(), [](const std::shared_ptr<Communicator>& world) -> absl::Status {
        Execution execution{{.num_threads = 1}};
        const Routed routed = RowsOfRank(world->rank());
        const Tensor weights = Weights();
        Tensor expected = Tensor::OnHost(DType::kF64, {routed.rows.shape()[0], kOut});
        PLAIT_RETURN_IF_ERROR(Apply(execution, routed.rows, weights, routed.offsets, expected));

        PLAIT_ASSIGN_OR_RETURN(const ExpertExchange exchange,
                               ExpertExchange::Create(*world, kExperts));
        PLAIT_ASSIGN_OR_RETURN(const ExpertExchange::Plan plan,
                               exchange.Exchange(execution, routed.offsets));
        PLAIT_ASSIGN_OR_RETURN(const Tensor arrived,
                               exchange.Dispatch(execution, plan, routed.rows));
        const int64_t own = exchange.own_experts();
        const Tensor own_weights = weights.Slice(world->rank() * own, (world->rank() + 1) * own);
        Tensor results = Tensor::OnHost(DType::kF64, {arrived.shape()[0], kOut});
        PLAIT_RETURN_IF_ERROR(Apply(execution, arrived, own_weights, plan.offsets, results));
        PLAIT_ASSIGN_OR_RETURN(const Tensor found, exchange.Combine(execution, plan, results));
        EXPECT_EQ(found.shape(), expected.shape());
        for (int64_t i = 0; i < expected.num_elements(); ++i) {
          EXPECT_EQ(found.data<double>()[i], expected.data<double>()[i]) << i;
        }
        // Nothing is dropped on the way there and back.
        PLAIT_ASSIGN_OR_RETURN(const Tensor back, exchange.Combine(execution, plan, arrived));
        for (int64_t i = 0; i < back.num_elements(); ++i) {
          EXPECT_EQ(back.data<double>()[i], routed.rows.data<double>()[i]);
        }
        return absl::OkStatus();
      }));
}

INSTANTIATE_TEST_SUITE_P(Ranks, ExpertExchangeTest, ::testing::Values(1, 2, 4));

TEST(ExpertExchangeTest, RejectsExpertsThatDoNotDivide) {
  EXPECT_THAT(RunLocalRanks(2,
                            [](const std::shared_ptr<Communicator>& world) {
                              return ExpertExchange::Create(*world, 3).status();
                            }),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       HasSubstr("expert axis = 2 does not divide the 3 experts")));
}

}  // namespace
}  // namespace plait
