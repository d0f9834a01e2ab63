#include "data/heldout_choice.h"

#include <gmock/gmock.h>

#include "tests/support/status_matchers.h"

namespace plait {
namespace {

using ::testing::HasSubstr;

std::string DocumentName(int document) { return "page/" + std::to_string(document); }

int NumHeldOut(HeldoutChoice& choice, int documents) {
  for (int d = 0; d < documents; ++d) choice.Observe(DocumentName(d));
  EXPECT_OK(choice.Decide());
  int held_out = 0;
  for (int d = 0; d < documents; ++d) held_out += choice.IsHeldOut(DocumentName(d));
  return held_out;
}

TEST(HeldoutChoiceTest, HoldsOutAboutTheShare) {
  HeldoutChoice choice(/*seed=*/1, 0.1);
  // Binomial: 1000 with a deviation of 30; five deviations.
  EXPECT_NEAR(NumHeldOut(choice, 10'000), 1000, 150);
}

TEST(HeldoutChoiceTest, HoldsOutOneWhereTheShareIsLessThanADocument) {
  HeldoutChoice choice(/*seed=*/1, 1e-9);
  EXPECT_EQ(NumHeldOut(choice, 20), 1);
}

TEST(HeldoutChoiceTest, HoldsOutNothingAtShareZero) {
  HeldoutChoice choice(/*seed=*/1, 0);
  EXPECT_EQ(NumHeldOut(choice, 1), 0);
}

TEST(HeldoutChoiceTest, ADocumentsFateDependsOnItsNameAlone) {
  HeldoutChoice few(/*seed=*/3, 0.2), many(/*seed=*/3, 0.2);
  NumHeldOut(few, 100);
  NumHeldOut(many, 1000);
  for (int d = 0; d < 100; ++d)
    EXPECT_EQ(few.IsHeldOut(DocumentName(d)), many.IsHeldOut(DocumentName(d)));
}

TEST(HeldoutChoiceTest, RefusesToLeaveNothingToTrainOn) {
  HeldoutChoice choice(/*seed=*/1, 0.01);
  choice.Observe("only");
  EXPECT_THAT(choice.Decide(),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("1 document leaves none")));
}

}  // namespace
}  // namespace plait
