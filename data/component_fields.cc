#include "data/component_fields.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "data/utf8.h"

namespace plait {
namespace {

// Objects read by name are small; those of a vocabulary are walked instead.
constexpr size_t kMostFields = 256;

}  // namespace

ComponentFields::ComponentFields(std::string file, std::string place, JsonValue object)
    : file_(std::move(file)), place_(std::move(place)) {
  if (object.kind() != JsonValue::Kind::kObject) {
    Fail("", absl::StrCat("expected an object, found ", Describe(object.kind())));
    return;
  }
  Fail(object.ForEachMember([this](std::string_view name, JsonValue value) {
    for (const Field& field : fields_) {
      if (field.name == name) return Refusal(name, "is there twice");
    }
    if (fields_.size() == kMostFields) return Refusal(name, "too many fields");
    fields_.push_back({name, value});
    return absl::OkStatus();
  }));
}

std::string ComponentFields::PlaceOf(std::string_view name) const {
  if (name.empty()) return place_;
  return absl::StrCat(place_, place_.empty() ? "" : ".", std::string(name));
}

absl::Status ComponentFields::Refusal(std::string_view name, const std::string& what) const {
  const std::string place = PlaceOf(name);
  return absl::InvalidArgumentError(
      absl::StrCat(file_, ": ", place, place.empty() ? "" : ": ", what));
}

void ComponentFields::Fail(std::string_view name, const std::string& what) {
  Fail(Refusal(name, what));
}

void ComponentFields::Fail(const absl::Status& status) {
  if (status_.ok()) status_ = status;
}

const JsonValue* ComponentFields::Find(std::string_view name) {
  for (Field& field : fields_) {
    if (field.name != name) continue;
    field.asked = true;
    return &field.value;
  }
  return nullptr;
}

const JsonValue* ComponentFields::Required(std::string_view name, JsonValue::Kind kind) {
  const JsonValue* value = Find(name);
  if (value == nullptr) {
    Fail(name, "is missing");
    return nullptr;
  }
  if (value->kind() != kind) {
    Fail(name, absl::StrCat("expected ", Describe(kind), ", found ", Describe(value->kind())));
    return nullptr;
  }
  return value;
}

bool ComponentFields::Boolean(std::string_view name, std::optional<bool> or_else) {
  if (or_else.has_value()) {
    const JsonValue* value = Find(name);
    if (value == nullptr || value->is_null()) return *or_else;
  }
  const JsonValue* value = Required(name, JsonValue::Kind::kBoolean);
  return value != nullptr && value->boolean();
}

int64_t ComponentFields::Integer(std::string_view name) {
  const JsonValue* value = Required(name, JsonValue::Kind::kInteger);
  if (value == nullptr) return 0;
  if (value->integer() < 0) Fail(name, absl::StrCat(value->integer(), " is negative"));
  return value->integer();
}

std::string ComponentFields::String(std::string_view name) {
  const JsonValue* value = Required(name, JsonValue::Kind::kString);
  return value == nullptr ? "" : std::string(value->string());
}

std::string ComponentFields::StringOrNull(std::string_view name) {
  const JsonValue* value = Find(name);
  return value == nullptr || value->is_null() ? "" : String(name);
}

char32_t ComponentFields::Character(std::string_view name) {
  const std::string text = String(name);
  int length = 0;
  const char32_t character = text.empty() ? 0 : DecodeUtf8(text, &length);
  if (text.empty() || static_cast<size_t>(length) != text.size()) {
    Fail(name, absl::StrCat("expected one character, found \"", text, "\""));
  }
  return character;
}

std::optional<JsonValue> ComponentFields::Value(std::string_view name) {
  const JsonValue* value = Find(name);
  if (value == nullptr || value->is_null()) return std::nullopt;
  return *value;
}

void ComponentFields::ForEach(
    std::string_view name,
    const std::function<absl::Status(JsonValue, const std::string&)>& visit) {
  const JsonValue* array = Required(name, JsonValue::Kind::kArray);
  if (array == nullptr) return;
  int64_t index = 0;
  Fail(array->ForEachItem(
      [&](JsonValue item) { return visit(item, absl::StrCat(PlaceOf(name), "[", index++, "]")); }));
}

absl::Status ComponentFields::Finish() {
  for (const Field& field : fields_) {
    if (!field.asked) Fail(field.name, "not supported");
  }
  return status_;
}

absl::StatusOr<std::string> StringPattern(ComponentFields& fields) {
  const std::optional<JsonValue> pattern = fields.Value("pattern");
  if (!pattern.has_value()) return fields.Refusal("pattern", "is missing");
  ComponentFields kinds(fields.file(), fields.PlaceOf("pattern"), *pattern);
  const std::string expression = kinds.StringOrNull("Regex");
  if (!expression.empty()) {
    return kinds.Refusal("Regex", absl::StrCat("\"", expression, "\" is not supported"));
  }
  std::string text = kinds.String("String");
  PLAIT_RETURN_IF_ERROR(kinds.Finish());
  if (text.empty()) return kinds.Refusal("String", "is empty");
  return text;
}

absl::Status LimitGrowth(const ComponentFields& fields, std::string_view pattern,
                         std::string_view content, double* growth) {
  *growth *=
      std::max(1.0, static_cast<double>(content.size()) / static_cast<double>(pattern.size()));
  if (*growth <= kMostGrowth) return absl::OkStatus();
  return fields.Refusal("content",
                        absl::StrCat("makes a text more than ", kMostGrowth, " times as long"));
}

}  // namespace plait
