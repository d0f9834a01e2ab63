#include "recipes/recipe_digest.h"

#include <google/protobuf/text_format.h>

#include "base/check.h"
#include "base/digest.h"
#include "recipes/recipe_defaults.h"

namespace plait {

std::string RecipeText(const recipe::v1::Recipe& recipe) {
  std::string text;
  PLAIT_CHECK(google::protobuf::TextFormat::PrintToString(recipe, &text));
  return text;
}

std::string RecipeDigest(const recipe::v1::Recipe& recipe) {
  recipe::v1::Recipe resolved = Resolved(recipe);
  resolved.clear_debug();
  const std::string text = RecipeText(resolved);
  return DigestOf(text.data(), text.size());
}

}  // namespace plait
