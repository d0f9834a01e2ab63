// A recipe as canonical text: fields in the order of the schema, one a line, numbers that read back
// to the same bits.
#pragma once

#include <string>

#include "recipes/schema/recipe.pb.h"

namespace plait {

std::string RecipeText(const recipe::v1::Recipe& recipe);

// XXH3-128, 32 hexadecimal digits, of the resolved recipe's text without `debug`, which changes
// nothing that is computed: a default written out, a comment or another order of fields gives the
// same digest.
std::string RecipeDigest(const recipe::v1::Recipe& recipe);

// The settings whose values the resolved recipes do not share, `debug` aside: "parallel.tensor: 2
// -> 1; parallel.shard: 2 -> unset". Empty where RecipeDigest is the same.
std::string RecipeDifferences(const recipe::v1::Recipe& before, const recipe::v1::Recipe& after);

}  // namespace plait
