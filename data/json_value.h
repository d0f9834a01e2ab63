// A parsed JSON file, read in place. simdjson parses it; its types stay in the source file.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"

namespace plait {

// One value of a JsonDocument, which must outlive it; null without one. Cheap to copy.
class JsonValue {
 public:
  enum class Kind { kNull, kBoolean, kInteger, kReal, kString, kArray, kObject };

  Kind kind() const;
  bool is_null() const { return kind() == Kind::kNull; }
  // Of a value of that kind; of another kind: false, 0, "".
  bool boolean() const;
  int64_t integer() const;
  std::string_view string() const;

  // The items of an array, the members of an object, in the file's order; none of another kind.
  // A status other than ok ends the walk and is returned.
  absl::Status ForEachItem(const std::function<absl::Status(JsonValue)>& visit) const;
  absl::Status ForEachMember(
      const std::function<absl::Status(std::string_view name, JsonValue)>& visit) const;

 private:
  friend class JsonDocument;
  std::array<uintptr_t, 2> place_ = {};  // simdjson's reference into the document
};

// "null", "a boolean", "a whole number", "a number", "a string", "an array" or "an object".
const char* Describe(JsonValue::Kind kind);

class JsonDocument {
 public:
  // InvalidArgument, beginning with `name`, where `text` is not JSON or nests deeper than
  // `max_depth`. Integers of 20 digits and more are real numbers; NaN and Infinity,
  // which Python writes, are null (base/json_numbers.h).
  static absl::StatusOr<JsonDocument> Parse(const std::string& text, std::string_view name,
                                            int max_depth);

  JsonDocument(JsonDocument&&) noexcept;
  JsonDocument& operator=(JsonDocument&&) noexcept;
  ~JsonDocument();

  JsonValue root() const;

 private:
  JsonDocument();

  struct Parser;
  std::unique_ptr<Parser> parser_;
};

}  // namespace plait
