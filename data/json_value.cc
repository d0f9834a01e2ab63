#include "data/json_value.h"

#include <simdjson.h>

#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/json_numbers.h"
#include "base/status_macros.h"

namespace plait {
namespace {

using simdjson::dom::element;
using simdjson::dom::element_type;

static_assert(sizeof(element) == sizeof(std::array<uintptr_t, 2>));
static_assert(std::is_trivially_copyable_v<element>);

element ElementAt(const std::array<uintptr_t, 2>& place) {
  element value;
  std::memcpy(static_cast<void*>(&value), place.data(), sizeof(value));
  return value;
}

std::array<uintptr_t, 2> PlaceOf(const element& value) {
  std::array<uintptr_t, 2> place;
  std::memcpy(place.data(), static_cast<const void*>(&value), sizeof(value));
  return place;
}

}  // namespace

struct JsonDocument::Parser {
  simdjson::dom::parser parser;
  element root;
};

JsonValue::Kind JsonValue::kind() const {
  if (place_[0] == 0) return Kind::kNull;  // of no document
  switch (ElementAt(place_).type()) {
    case element_type::ARRAY:
      return Kind::kArray;
    case element_type::OBJECT:
      return Kind::kObject;
    case element_type::INT64:
      return Kind::kInteger;
    case element_type::UINT64:  // does not fit a signed number
    case element_type::DOUBLE:
      return Kind::kReal;
    case element_type::STRING:
      return Kind::kString;
    case element_type::BOOL:
      return Kind::kBoolean;
    case element_type::NULL_VALUE:
      break;
  }
  return Kind::kNull;
}

bool JsonValue::boolean() const {
  bool value = false;
  return ElementAt(place_).get(value) == simdjson::SUCCESS && value;
}

int64_t JsonValue::integer() const {
  int64_t value = 0;
  return ElementAt(place_).get(value) == simdjson::SUCCESS ? value : 0;
}

std::string_view JsonValue::string() const {
  std::string_view value;
  if (ElementAt(place_).get(value) != simdjson::SUCCESS) return "";
  return value;
}

absl::Status JsonValue::ForEachItem(const std::function<absl::Status(JsonValue)>& visit) const {
  simdjson::dom::array array;
  if (ElementAt(place_).get(array) != simdjson::SUCCESS) return absl::OkStatus();
  for (const element item : array) {
    JsonValue value;
    value.place_ = PlaceOf(item);
    PLAIT_RETURN_IF_ERROR(visit(value));
  }
  return absl::OkStatus();
}

absl::Status JsonValue::ForEachMember(
    const std::function<absl::Status(std::string_view, JsonValue)>& visit) const {
  simdjson::dom::object object;
  if (ElementAt(place_).get(object) != simdjson::SUCCESS) return absl::OkStatus();
  for (const simdjson::dom::key_value_pair member : object) {
    JsonValue value;
    value.place_ = PlaceOf(member.value);
    PLAIT_RETURN_IF_ERROR(visit(member.key, value));
  }
  return absl::OkStatus();
}

const char* Describe(JsonValue::Kind kind) {
  switch (kind) {
    case JsonValue::Kind::kBoolean:
      return "a boolean";
    case JsonValue::Kind::kInteger:
      return "a whole number";
    case JsonValue::Kind::kReal:
      return "a number";
    case JsonValue::Kind::kString:
      return "a string";
    case JsonValue::Kind::kArray:
      return "an array";
    case JsonValue::Kind::kObject:
      return "an object";
    case JsonValue::Kind::kNull:
      break;
  }
  return "null";
}

JsonDocument::JsonDocument() : parser_(std::make_unique<Parser>()) {}
JsonDocument::JsonDocument(JsonDocument&&) noexcept = default;
JsonDocument& JsonDocument::operator=(JsonDocument&&) noexcept = default;
JsonDocument::~JsonDocument() = default;

absl::StatusOr<JsonDocument> JsonDocument::Parse(const std::string& text, std::string_view name,
                                                 int max_depth) {
  JsonDocument document;
  simdjson::dom::parser& parser = document.parser_->parser;
  const std::string readable = WithReadableNumbers(text, NotFinite::kNull);
  auto error =
      parser.allocate(readable.size() + simdjson::SIMDJSON_PADDING, static_cast<size_t>(max_depth));
  if (error == simdjson::SUCCESS) error = parser.parse(readable).get(document.parser_->root);
  if (error != simdjson::SUCCESS) {
    return absl::InvalidArgumentError(
        absl::StrCat(std::string(name), ": not JSON: ", simdjson::error_message(error)));
  }
  return document;
}

JsonValue JsonDocument::root() const {
  JsonValue value;
  value.place_ = PlaceOf(parser_->root);
  return value;
}

}  // namespace plait
