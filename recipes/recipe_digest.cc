#include "recipes/recipe_digest.h"

#include <google/protobuf/text_format.h>
#include <google/protobuf/util/message_differencer.h>

#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "base/check.h"
#include "base/digest.h"
#include "recipes/recipe_defaults.h"

namespace plait {
namespace {

// What the digest covers.
recipe::v1::Recipe Computed(const recipe::v1::Recipe& recipe) {
  recipe::v1::Recipe resolved = Resolved(recipe);
  resolved.clear_debug();
  return resolved;
}

// From the library's "modified: a.b: 2 -> 1", "added: a.b: 1" or "deleted: a.b: 2", where an
// element of a list is a[0].b.
std::string Difference(absl::string_view line) {
  std::string text(line);
  if (absl::ConsumePrefix(&line, "modified: ")) {
    text = std::string(line);
  } else if (absl::ConsumePrefix(&line, "deleted: ")) {
    text = absl::StrCat(line, " -> unset");
  } else if (absl::ConsumePrefix(&line, "added: ")) {
    const std::pair<std::string, std::string> field =
        absl::StrSplit(line, absl::MaxSplits(": ", 1));
    text = absl::StrCat(field.first, ": unset -> ", field.second);
  }
  // Elements of a list as --set takes them.
  const size_t value = text.find(": ");
  std::string path = text.substr(0, value);
  for (const auto& [from, to] : {std::pair("[", "."), {"]", ""}}) {
    path = absl::StrJoin(absl::StrSplit(path, from), to);
  }
  return value == std::string::npos ? text : absl::StrCat(path, text.substr(value));
}

}  // namespace

std::string RecipeText(const recipe::v1::Recipe& recipe) {
  std::string text;
  PLAIT_CHECK(google::protobuf::TextFormat::PrintToString(recipe, &text));
  return text;
}

std::string RecipeDigest(const recipe::v1::Recipe& recipe) {
  const std::string text = RecipeText(Computed(recipe));
  return DigestOf(text.data(), text.size());
}

std::string RecipeDifferences(const recipe::v1::Recipe& before, const recipe::v1::Recipe& after) {
  google::protobuf::util::MessageDifferencer differencer;
  std::string report;
  differencer.ReportDifferencesToString(&report);
  differencer.Compare(Computed(before), Computed(after));
  std::vector<std::string> differences;
  for (const absl::string_view line : absl::StrSplit(report, '\n', absl::SkipEmpty())) {
    differences.push_back(Difference(line));
  }
  return absl::StrJoin(differences, "; ");
}

}  // namespace plait
