// Recipe files: Protobuf text format (*.textproto), at most 16 MiB of valid UTF-8. Errors are
// InvalidArgument (NotFound where there is no file), one line that starts with "file:line:column:
// ". A misspelt name is answered with the nearest.
#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "recipes/schema/recipe.pb.h"

namespace plait {

// As written in the file: neither defaults nor validation.
absl::StatusOr<recipe::v1::Recipe> ParseRecipe(const std::string& text,
                                               const std::string& file_name);
absl::StatusOr<recipe::v1::Recipe> LoadRecipe(const std::string& path);

// What a command does with a recipe: loads it, applies "path=value" overrides in order
// (recipe_overrides.h), fills in the defaults (recipe_defaults.h) and validates it
// (recipe_validation.h, world_size as there). Every problem that validation finds is a line of the
// message.
absl::StatusOr<recipe::v1::Recipe> LoadValidRecipe(const std::string& path,
                                                   const std::vector<std::string>& overrides,
                                                   int64_t world_size);

}  // namespace plait
