#include "model/decoding/sampler.h"

#include <cmath>
#include <map>

#include "base/exit_code.h"
#include "tests/support/status_matchers.h"

namespace plait {
namespace {

Tensor Logits() { return Tensor::FromValues<float>({4}, {1.0f, 3.0f, 3.0f, 0.0f}); }

TEST(SamplerTest, GreedyTakesTheLargestAndTheLowerIdOfEqualOnes) {
  EXPECT_EQ(*SampleToken(Logits(), {.temperature = 0}, 0), 1);
}

TEST(SamplerTest, FrequenciesFollowTheProbabilities) {
  std::map<int32_t, int> counts;
  const int draws = 20000;
  for (int i = 0; i < draws; ++i)
    ++counts[*SampleToken(Logits(), {.temperature = 2.0, .seed = 5}, i)];
  double sum = 0;
  for (const float logit : {1.0f, 3.0f, 3.0f, 0.0f}) sum += std::exp(logit / 2);
  for (const auto& [id, logit] : std::map<int32_t, double>{{0, 1}, {1, 3}, {2, 3}, {3, 0}}) {
    const double p = std::exp(logit / 2) / sum;
    // Five standard deviations of a binomial share.
    EXPECT_NEAR(static_cast<double>(counts[id]) / draws, p, 5 * std::sqrt(p * (1 - p) / draws))
        << id;
  }
}

TEST(SamplerTest, TopKAndTopPLeaveOutTheRest) {
  for (int i = 0; i < 500; ++i) {
    const int32_t by_k = *SampleToken(Logits(), {.top_k = 2}, i);
    EXPECT_TRUE(by_k == 1 || by_k == 2);
    // The first of the two equal ones already holds 0.44 of the probability.
    EXPECT_EQ(*SampleToken(Logits(), {.top_p = 0.4}, i), 1);
  }
}

TEST(SamplerTest, SeedAndPositionDecideTheDraw) {
  bool differs = false;
  for (int i = 0; i < 50; ++i) {
    EXPECT_EQ(*SampleToken(Logits(), {.seed = 1}, i), *SampleToken(Logits(), {.seed = 1}, i));
    differs |= *SampleToken(Logits(), {.seed = 1}, i) != *SampleToken(Logits(), {.seed = 2}, i);
  }
  EXPECT_TRUE(differs);
}

TEST(SamplerTest, NamesTheOptionThatIsWrong) {
  using ::testing::HasSubstr;
  EXPECT_THAT(ValidateSamplerOptions({.temperature = -1}),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       HasSubstr("temperature: expected 0 or more, got -1")));
  EXPECT_THAT(ValidateSamplerOptions({.top_k = -2}),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("top-k")));
  EXPECT_THAT(ValidateSamplerOptions({.top_p = 0}),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("top-p")));
}

TEST(SamplerTest, LogitsThatAreNotFiniteAreANumericFault) {
  for (const float bad : {std::nanf(""), INFINITY, -INFINITY}) {
    const Tensor logits = Tensor::FromValues<float>({4}, {1.0f, 3.0f, bad, 0.0f});
    for (const double temperature : {0.0, 1.0}) {
      const auto token = SampleToken(logits, {.temperature = temperature}, 5);
      EXPECT_THAT(token.status(), StatusIs(absl::StatusCode::kDataLoss,
                                           ::testing::HasSubstr("token 5 of the text: the logit of "
                                                                "id 2 is ")));
      EXPECT_EQ(ExitCodeOf(token.status()), ExitCode::kNumericFault);
    }
  }
}

}  // namespace
}  // namespace plait
