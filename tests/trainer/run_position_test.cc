#include "trainer/run_position.h"

#include "recipes/schema/recipe.pb.h"
#include "tests/support/status_matchers.h"

namespace plait {
namespace {

recipe::v1::Recipe Of(std::initializer_list<int64_t> steps) {
  recipe::v1::Recipe recipe;
  for (const int64_t s : steps) recipe.add_stages()->set_steps(s);
  return recipe;
}

TEST(RunPositionTest, CountsThroughTheStages) {
  const auto recipe = Of({3, 4});
  EXPECT_EQ(TotalSteps(recipe), 7);
  for (const auto& [step, stage, of_stage] :
       {std::tuple(0, 0, 0), {2, 0, 2}, {3, 1, 0}, {6, 1, 3}, {7, 1, 4}}) {
    EXPECT_EQ(PositionOf(recipe, step).stage, stage);
    EXPECT_EQ(PositionOf(recipe, step).step, of_stage);
  }
}

TEST(RunPositionTest, StepsOfWhatIsDoneMayNotChange) {
  const auto saved = Of({3, 4});
  // Later stages, the one that runs, and more of them.
  EXPECT_OK(CheckSamePosition(saved, Of({3, 4}), 5, "c"));
  EXPECT_OK(CheckSamePosition(saved, Of({3, 9}), 5, "c"));
  EXPECT_OK(CheckSamePosition(saved, Of({3, 9}), 7, "c"));
  EXPECT_OK(CheckSamePosition(saved, Of({3, 4, 5}), 7, "c"));
  EXPECT_OK(CheckSamePosition(saved, Of({3}), 3, "c"));
  EXPECT_OK(CheckSamePosition(saved, Of({9, 4}), 2, "c"));
  // It would go back, or leave steps out.
  for (const auto& changed : {Of({9, 4}), Of({4, 4}), Of({2, 4}), Of({6, 1})}) {
    EXPECT_THAT(CheckSamePosition(saved, changed, 5, "c"),
                StatusIs(absl::StatusCode::kFailedPrecondition,
                         ::testing::HasSubstr("c has made 2 steps of stage 1")));
  }
}

}  // namespace
}  // namespace plait
