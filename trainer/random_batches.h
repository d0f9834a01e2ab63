// Made-up tokens for benchmarks: full rows of a few documents each.
#pragma once

#include <vector>

#include "data/batch.h"

namespace plait {

namespace recipe::v1 {
class Recipe;
}

// The microbatches of one step of the recipe's stage, of all ranks, in the order of the leaves.
std::vector<Batch> RandomStep(const recipe::v1::Recipe& recipe, int stage);

}  // namespace plait
