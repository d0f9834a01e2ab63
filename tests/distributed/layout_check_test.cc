// The layouts of as many ranks as the launcher started, on ranks that are processes.
#include "trainer/layout_check.h"

#include <gtest/gtest.h>

#include <map>
#include <tuple>
#include <utility>

#include "base/status_macros.h"
#include "tests/support/ranked.h"
#include "tests/support/status_matchers.h"

namespace plait {
namespace {

// One rank's step, on every rank alike; made once.
absl::StatusOr<const CheckedStep*> OneRank(CheckedModel model, DType precision, int leaves) {
  static std::map<std::tuple<CheckedModel, DType, int>, CheckedStep> steps;
  const auto key = std::make_tuple(model, precision, leaves);
  auto found = steps.find(key);
  if (found == steps.end()) {
    PLAIT_ASSIGN_OR_RETURN(CheckedStep step, StepOnOneRank(model, precision, leaves));
    found = steps.emplace(key, std::move(step)).first;
  }
  return &found->second;
}

TEST(DistributedLayoutCheckTest, LearnsWhatOneRankLearns) {
  int checked = 0;
  for (const CheckedLayout& layout : CheckedLayouts()) {
    if (layout.ranks() != RankedWorld()->size()) continue;
    for (const CheckedModel model : layout.models) {
      for (const DType precision : {DType::kF64, DType::kF32, DType::kBf16}) {
        SCOPED_TRACE(layout.name() + ", " + std::string(Name(model)));
        ASSERT_OK_AND_ASSIGN(const CheckedStep* one_rank,
                             OneRank(model, precision, NumCheckedLeaves(layout)));
        const auto differences =
            CompareWithOneRank(RankedWorld(), model, precision, layout, *one_rank);
        ++checked;
        EXPECT_OK(differences.status());
        if (!differences.ok()) continue;
        for (const LayoutDifference& difference : *differences)
          EXPECT_LE(difference.error, difference.bound) << difference.tensor;
      }
    }
  }
  EXPECT_GT(checked, 2);
}

}  // namespace
}  // namespace plait
