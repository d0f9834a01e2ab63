#include "trainer/run_position.h"

#include "absl/strings/str_cat.h"
#include "recipes/schema/recipe.pb.h"

namespace plait {
namespace {

using recipe::v1::Recipe;
using recipe::v1::Stage;

bool IsSame(const RunPosition& a, const RunPosition& b) {
  return a.stage == b.stage && a.step == b.step;
}

// The end of a stage as the begin of the next one.
RunPosition Next(const Recipe& recipe, const RunPosition& at) {
  return at.step == recipe.stages(at.stage).steps() ? RunPosition{at.stage + 1, 0} : at;
}

}  // namespace

RunPosition PositionOf(const Recipe& recipe, int64_t step) {
  RunPosition position{0, step};
  while (position.stage + 1 < recipe.stages_size() &&
         position.step >= recipe.stages(position.stage).steps()) {
    position.step -= recipe.stages(position.stage).steps();
    ++position.stage;
  }
  return position;
}

int64_t TotalSteps(const Recipe& recipe) {
  int64_t steps = 0;
  for (const Stage& stage : recipe.stages()) steps += stage.steps();
  return steps;
}

absl::Status CheckSamePosition(const Recipe& saved, const Recipe& recipe, int64_t step,
                               const std::string& folder) {
  const RunPosition was = PositionOf(saved, step), is = PositionOf(recipe, step);
  if (IsSame(was, is) || IsSame(Next(saved, was), Next(recipe, is))) return absl::OkStatus();
  return absl::FailedPreconditionError(
      absl::StrCat("recipe stages: ", folder, " has made ", was.step, " steps of stage ", was.stage,
                   ", with these steps it would be ", is.step, " of stage ", is.stage,
                   "; change only the steps of stages that are not done yet"));
}

}  // namespace plait
