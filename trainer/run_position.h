// Where a run is: its steps, counted through all stages, as a stage and a step of it.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/status.h"

namespace plait {

namespace recipe::v1 {
class Recipe;
}

struct RunPosition {
  int stage = 0;
  int64_t step = 0;  // of the stage
};

// After so many steps. The end of the run counts as the last stage's.
RunPosition PositionOf(const recipe::v1::Recipe& recipe, int64_t step);
int64_t TotalSteps(const recipe::v1::Recipe& recipe);

// saved: the recipe by which `step` steps were made, of which `folder` is the checkpoint. After a
// change of steps the run must be in the stage, and as far in it, as it was: else it would go back,
// or leave steps out (FailedPrecondition). A longer last stage and more stages are no such change.
absl::Status CheckSamePosition(const recipe::v1::Recipe& saved, const recipe::v1::Recipe& recipe,
                               int64_t step, const std::string& folder);

}  // namespace plait
