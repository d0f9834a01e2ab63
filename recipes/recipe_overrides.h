// --set path=value: one field of a recipe by its path, through reflection, so that every setting is
// an option.
//   model.attention.heads=8   stages.1.steps=20   trainer.precision=F32
//   model.activation_loss.sites=BLOCK_OUTPUT,RESIDUAL
// Messages on the way are created. A repeated message needs an index that exists; a repeated value
// is replaced whole.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "recipes/schema/recipe.pb.h"

namespace plait {

// InvalidArgument naming the path, what was found there and what is accepted; the recipe is then
// unchanged.
absl::Status ApplyOverride(const std::string& assignment, recipe::v1::Recipe& recipe);

}  // namespace plait
