// Every rule a recipe must keep before anything runs. A pure function of the recipe and the number
// of ranks.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "recipes/schema/recipe.pb.h"

namespace plait {

struct RecipeProblem {
  std::string field;  // "model.attention.heads"
  std::string value;  // "7"; empty where the field is missing
  std::string rule;   // "does not divide model.model_dim = 256"

  // "recipe model.attention.heads = 7 does not divide model.model_dim = 256"
  std::string ToString() const;
};

// For world_size: the ranks are not known yet, rules about them are left out.
inline constexpr int64_t kAnyWorldSize = 0;

enum class RecipeUse {
  kTraining,
  // What a converted checkpoint's recipe has, and all that generation needs: rules about data,
  // stages and the optimizer are left out.
  kModelOnly,
};

// All problems, in the order of the schema; empty for a recipe that can run on world_size ranks.
// Defaults need not be filled in.
std::vector<RecipeProblem> RecipeProblems(const recipe::v1::Recipe& recipe, int64_t world_size,
                                          RecipeUse use = RecipeUse::kTraining);

// InvalidArgument with one problem a line.
absl::Status ValidateRecipe(const recipe::v1::Recipe& recipe, int64_t world_size,
                            RecipeUse use = RecipeUse::kTraining);

}  // namespace plait
