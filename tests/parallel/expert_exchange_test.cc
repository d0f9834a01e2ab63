#include "parallel/expert_exchange.h"

#include <utility>

#include "base/random.h"
#include "base/status_macros.h"
#include "kernels/expert_routing.h"
#include "parallel/local_communicator.h"
#include "tests/support/random_tensor.h"
#include "tests/support/status_matchers.h"

namespace plait {
namespace {

using ::testing::HasSubstr;

constexpr int64_t kExperts = 4, kTokens = 11;

// Another number of rows for every rank and expert; expert 3 gets none from rank 0.
std::vector<int32_t> ChoicesOfRank(int rank) {
  std::vector<int32_t> choices;
  const RandomKey key(static_cast<uint64_t>(rank), RandomPurpose::kTest, "choices");
  for (uint64_t t = 0; t < kTokens; ++t) {
    choices.push_back(static_cast<int32_t>(key.Words(t)[0] % (rank == 0 ? 3 : 4)));
  }
  return choices;
}

// A row that says whose it is: rank, expert, place among the rows of a wave.
Tensor RowsOfWave(const ExpertSchedule::Wave& wave, const std::vector<int32_t>& choices, int rank) {
  std::vector<double> values;
  int64_t rows = 0;
  for (int32_t e = 0; e < kExperts; ++e) {
    for (int64_t t = wave.begin; t < wave.end; ++t) {
      if (choices[static_cast<size_t>(t)] != e) continue;
      values.insert(values.end(), {1.0 * rank, 1.0 * e, 1.0 * static_cast<double>(t)});
      ++rows;
    }
  }
  return Tensor::FromValues<double>({rows, 3}, values);
}

absl::Status ExchangeThereAndBack(const std::shared_ptr<Communicator>& world, int64_t wave_tokens) {
  Execution execution{{.num_threads = 1}};
  const std::vector<int32_t> choices = ChoicesOfRank(world->rank());
  PLAIT_ASSIGN_OR_RETURN(const ExpertExchange exchange, ExpertExchange::Create(*world, kExperts));
  PLAIT_ASSIGN_OR_RETURN(const auto schedule,
                         exchange.Schedule(choices.data(), kTokens,
                                           /*experts_per_token=*/1, wave_tokens));
  for (const ExpertSchedule::Wave& wave : schedule->waves()) {
    PLAIT_ASSIGN_OR_RETURN(const ExpertExchange::Plan plan, exchange.PlanOf(execution, wave));
    const Tensor sent = RowsOfWave(wave, choices, world->rank());
    PLAIT_ASSIGN_OR_RETURN(ExpertExchange::Transfer dispatched,
                           exchange.Dispatch(execution, plan, sent.Clone()));
    PLAIT_ASSIGN_OR_RETURN(const Tensor arrived, dispatched.Arrived(execution));
    EXPECT_EQ(arrived.shape()[0], plan.num_received());
    // In the order of the experts: by expert, rank, token; exactly the rows that were sent.
    int64_t row = 0;
    for (int64_t e = 0; e < exchange.own_experts(); ++e) {
      EXPECT_EQ(plan.offsets.data<int32_t>()[e], row);
      for (int rank = 0; rank < world->size(); ++rank) {
        const std::vector<int32_t> theirs = ChoicesOfRank(rank);
        for (int64_t t = wave.begin; t < wave.end; ++t) {
          const int64_t expert = exchange.first_expert() + e;
          if (theirs[static_cast<size_t>(t)] != expert) continue;
          const int32_t place = plan.arrival.data<int32_t>()[row];
          EXPECT_EQ(plan.place.data<int32_t>()[place], row);
          const double* found = arrived.data<double>() + 3 * place;
          EXPECT_EQ(found[0], rank);
          EXPECT_EQ(found[1], static_cast<double>(expert));
          EXPECT_EQ(found[2], static_cast<double>(t));
          ++row;
        }
      }
    }
    EXPECT_EQ(row, plan.num_received());
    EXPECT_EQ(plan.offsets.data<int32_t>()[exchange.own_experts()], row);
    PLAIT_ASSIGN_OR_RETURN(ExpertExchange::Transfer returned,
                           exchange.Return(execution, plan, arrived));
    PLAIT_ASSIGN_OR_RETURN(const Tensor back, returned.Arrived(execution));
    EXPECT_EQ(back.shape(), sent.shape());
    for (int64_t i = 0; i < back.num_elements(); ++i) {
      EXPECT_EQ(back.data<double>()[i], sent.data<double>()[i]);
    }
  }
  return absl::OkStatus();
}

TEST(ExpertExchangeTest, RowsGoToTheirExpertsAndBackWithNothingDropped) {
  for (const int ranks : {1, 2, 4}) {
    for (const int64_t wave_tokens : {0, 1, 3}) {
      EXPECT_OK(RunLocalRanks(ranks,
                              [=](const std::shared_ptr<Communicator>& world) {
                                return ExchangeThereAndBack(world, wave_tokens);
                              }))
          << ranks << " ranks, waves of " << wave_tokens;
    }
  }
}

TEST(ExpertExchangeTest, RejectsExpertsThatDoNotDivide) {
  EXPECT_THAT(RunLocalRanks(2,
                            [](const std::shared_ptr<Communicator>& world) {
                              return ExpertExchange::Create(*world, 3).status();
                            }),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       HasSubstr("expert axis = 2 does not divide the 3 experts")));
}

TEST(ExpertExchangeTest, RejectsAChoiceThatIsNoExpert) {
  Execution execution;
  const auto world = MakeSingleRankCommunicator();
  ASSERT_OK_AND_ASSIGN(const ExpertExchange exchange, ExpertExchange::Create(*world, 3));
  const std::vector<int32_t> choices = {0, 3};
  EXPECT_THAT(exchange.Schedule(choices.data(), 2, 1, 0),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       HasSubstr("choices[1]: expected 0 to 2, got 3")));
}

TEST(ExpertExchangeTest, RejectsAnotherNumberOfRows) {
  Execution execution;
  const auto world = MakeSingleRankCommunicator();
  ASSERT_OK_AND_ASSIGN(const ExpertExchange exchange, ExpertExchange::Create(*world, 3));
  const std::vector<int32_t> choices = {0, 2};
  ASSERT_OK_AND_ASSIGN(const auto schedule, exchange.Schedule(choices.data(), 2, 1, 0));
  ASSERT_OK_AND_ASSIGN(const ExpertExchange::Plan plan,
                       exchange.PlanOf(execution, schedule->waves()[0]));
  EXPECT_THAT(exchange.Dispatch(execution, plan, UniformTensor({3, 4}, 1)),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       HasSubstr("expert exchange: expected 2 rows, got 3")));
}

}  // namespace
}  // namespace plait
