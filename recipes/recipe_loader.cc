#include "recipes/recipe_loader.h"

#include <google/protobuf/descriptor.h>
#include <google/protobuf/io/tokenizer.h>
#include <google/protobuf/io/zero_copy_stream_impl_lite.h>
#include <google/protobuf/text_format.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <optional>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "recipes/field_names.h"
#include "recipes/recipe_defaults.h"
#include "recipes/recipe_overrides.h"
#include "recipes/recipe_validation.h"
#include "recipes/utf8_text.h"

namespace plait {
namespace {

using google::protobuf::Descriptor;
using google::protobuf::DescriptorPool;
using google::protobuf::FieldDescriptor;
using google::protobuf::Message;
using google::protobuf::Reflection;
using google::protobuf::TextFormat;

constexpr int kRecursionLimit = 64;
constexpr int64_t kMaxFileBytes = 16 << 20;

// The text between the first two `quote` characters at or after `from`.
std::optional<std::string> Quoted(const std::string& text, size_t from = 0) {
  const size_t begin = text.find('"', from);
  if (begin == std::string::npos) return std::nullopt;
  const size_t end = text.find('"', begin + 1);
  if (end == std::string::npos) return std::nullopt;
  return text.substr(begin + 1, end - begin - 1);
}

// What the parser found wrong, and the name or value it means, if it means one.
struct Explanation {
  std::string text;
  std::string culprit;
};

// Protobuf's message in our words: paths instead of type names, and the nearest right name added.
Explanation Explained(const std::string& message) {
  const size_t no_field = message.find("\" has no field named \"");
  if (absl::StartsWith(message, "Message type \"") && no_field != std::string::npos) {
    const Descriptor* descriptor =
        DescriptorPool::generated_pool()->FindMessageTypeByName(*Quoted(message));
    const std::optional<std::string> field = Quoted(message, no_field + 1);
    if (descriptor != nullptr && field.has_value()) {
      return {UnknownField(descriptor, *field), *field};
    }
  }
  const size_t for_field = message.find("\" for field \"");
  if (absl::StartsWith(message, "Unknown enumeration value of \"") &&
      for_field != std::string::npos) {
    const std::string value = *Quoted(message);
    const std::string explained = UnknownEnumValue(*Quoted(message, for_field + 1), value);
    if (!explained.empty()) return {explained, value};
  }
  std::string plain = message;
  if (!plain.empty() && plain[0] >= 'A' && plain[0] <= 'Z') plain[0] += 'a' - 'A';
  if (!plain.empty() && plain.back() == '.') plain.pop_back();
  for (char& character : plain) {
    if (character == '\n' || character == '\r') character = ' ';
  }
  return {plain, ""};
}

// The parser reports the token after a wrong name: moves back to the name. Line and column count
// from 0.
void MoveBackTo(const std::string& culprit, const std::string& text, int* line, int* column) {
  if (culprit.empty()) return;
  size_t line_begin = 0;
  for (int i = 0; i < *line && line_begin != std::string::npos; ++i) {
    line_begin = text.find('\n', line_begin);
    if (line_begin != std::string::npos) ++line_begin;
  }
  if (line_begin == std::string::npos) return;
  size_t position = line_begin;
  for (int at = 0; at < *column && position < text.size() && text[position] != '\n'; ++position) {
    at = text[position] == '\t' ? (at / 8 + 1) * 8 : at + 1;  // the parser's tab stops
  }
  if (position == 0) return;
  const size_t found = text.rfind(culprit, position - 1);
  if (found == std::string::npos) return;
  *line = static_cast<int>(std::count(text.begin(), text.begin() + found, '\n'));
  const size_t newline = found == 0 ? std::string::npos : text.rfind('\n', found - 1);
  *column = static_cast<int>(newline == std::string::npos ? found : found - newline - 1);
}

class FirstError : public google::protobuf::io::ErrorCollector {
 public:
  void AddError(int line, int column, const std::string& message) override {
    if (found_) return;
    found_ = true;
    line_ = line;
    column_ = column;
    message_ = message;
  }
  void AddWarning(int, int, const std::string&) override {}

  int line_ = 0;  // from 0, as the column
  int column_ = 0;
  std::string message_;

 private:
  bool found_ = false;
};

std::string At(const std::string& file_name, int line, int column) {
  return absl::StrCat(file_name, ":", line + 1, ":", column + 1, ": ");
}

// Every floating-point field must be finite; every enum a name of the schema.
absl::Status CheckValues(const Message& message, const TextFormat::ParseInfoTree* locations,
                         const std::string& path, const std::string& file_name) {
  const Reflection& reflection = *message.GetReflection();
  std::vector<const FieldDescriptor*> fields;
  reflection.ListFields(message, &fields);
  for (const FieldDescriptor* field : fields) {
    const int count = field->is_repeated() ? reflection.FieldSize(message, field) : 1;
    for (int i = 0; i < count; ++i) {
      const int index = field->is_repeated() ? i : -1;
      const std::string name = FieldPath(path, field, index);
      if (field->cpp_type() == FieldDescriptor::CPPTYPE_MESSAGE) {
        const Message& nested = field->is_repeated()
                                    ? reflection.GetRepeatedMessage(message, field, i)
                                    : reflection.GetMessage(message, field);
        const TextFormat::ParseInfoTree* below =
            locations == nullptr ? nullptr : locations->GetTreeForNested(field, index);
        PLAIT_RETURN_IF_ERROR(CheckValues(nested, below, name, file_name));
        continue;
      }
      const ScalarRule scalar = BrokenScalarRule(message, field, index);
      if (scalar.rule.empty()) continue;
      const auto place =
          locations == nullptr ? TextFormat::ParseLocation() : locations->GetLocation(field, index);
      return absl::InvalidArgumentError(absl::StrCat(At(file_name, place.line, place.column), name,
                                                     " = ", scalar.value, " ", scalar.rule));
    }
  }
  return absl::OkStatus();
}

absl::Status TooLarge(const std::string& name, int64_t bytes) {
  return absl::InvalidArgumentError(
      absl::StrCat(name, ": expected a recipe of at most ", kMaxFileBytes, " bytes, got ", bytes));
}

}  // namespace

absl::StatusOr<recipe::v1::Recipe> ParseRecipe(const std::string& text,
                                               const std::string& file_name) {
  if (static_cast<int64_t>(text.size()) > kMaxFileBytes) return TooLarge(file_name, text.size());
  if (text.empty())
    return absl::InvalidArgumentError(absl::StrCat(file_name, ": the file is empty"));
  if (const size_t byte = FirstInvalidUtf8Byte(text); byte != std::string::npos) {
    return absl::InvalidArgumentError(
        absl::StrCat(file_name, ": byte ", byte, " is not valid UTF-8 text"));
  }
  FirstError error;
  TextFormat::ParseInfoTree locations;
  TextFormat::Parser parser;
  parser.SetRecursionLimit(kRecursionLimit);
  parser.RecordErrorsTo(&error);
  parser.WriteLocationsTo(&locations);
  recipe::v1::Recipe recipe;
  google::protobuf::io::ArrayInputStream stream(text.data(), static_cast<int>(text.size()));
  if (!parser.Parse(&stream, &recipe)) {
    const Explanation explained = Explained(error.message_);
    MoveBackTo(explained.culprit, text, &error.line_, &error.column_);
    return absl::InvalidArgumentError(
        absl::StrCat(At(file_name, error.line_, error.column_), explained.text));
  }
  PLAIT_RETURN_IF_ERROR(CheckValues(recipe, &locations, "", file_name));
  return recipe;
}

absl::StatusOr<recipe::v1::Recipe> LoadRecipe(const std::string& path) {
  std::error_code error;
  const auto status = std::filesystem::status(path, error);
  if (!std::filesystem::exists(status)) {
    return absl::NotFoundError(absl::StrCat(path, ": no such recipe file"));
  }
  if (std::filesystem::is_directory(status)) {
    return absl::InvalidArgumentError(absl::StrCat(path, ": expected a recipe file, got a folder"));
  }
  std::ifstream file(path, std::ios::binary);
  std::string text(kMaxFileBytes + 1, '\0');
  file.read(text.data(), static_cast<std::streamsize>(text.size()));
  if (file.bad() || (!file && !file.eof())) {
    return absl::InvalidArgumentError(absl::StrCat(path, ": the recipe cannot be read"));
  }
  text.resize(static_cast<size_t>(file.gcount()));
  return ParseRecipe(text, path);
}

absl::StatusOr<recipe::v1::Recipe> LoadValidRecipe(const std::string& path,
                                                   const std::vector<std::string>& overrides,
                                                   int64_t world_size) {
  PLAIT_ASSIGN_OR_RETURN(recipe::v1::Recipe recipe, LoadRecipe(path));
  for (const std::string& assignment : overrides) {
    PLAIT_RETURN_IF_ERROR(ApplyOverride(assignment, recipe));
  }
  recipe = Resolved(recipe);
  PLAIT_RETURN_IF_ERROR(ValidateRecipe(recipe, world_size));
  return recipe;
}

}  // namespace plait
