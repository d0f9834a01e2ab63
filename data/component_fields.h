// The fields of one JSON object of a tokenizer.json, each asked for by name. The first thing that
// is wrong is kept, with its place ("tokenizer.json: model.vocab: expected an object, found null");
// what is read after it is worthless. A field that nobody asked for is an error too: an option that
// is not understood may change the meaning.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "data/json_value.h"

namespace plait {

// Bounds of what a file can ask for, far beyond what real ones do: a text may not become a flood.
inline constexpr size_t kMostSteps = 16;         // of a normalizer, pre-tokenizer or decoder
inline constexpr double kMostGrowth = 64;        // of a text by all its replacements
inline constexpr size_t kMostPieceBytes = 1024;  // of an added token, and of what is prepended

class ComponentFields {
 public:
  // file: what errors begin with. place: of the object in it, as model or decoder.decoders[1]; "":
  // the whole. A value that is not an object, or a name twice, is an error.
  ComponentFields(std::string file, std::string place, JsonValue object);

  // The value, or where there is none the default. Without a default a field is required.
  bool Boolean(std::string_view name, std::optional<bool> or_else = std::nullopt);
  int64_t Integer(std::string_view name);  // >= 0
  std::string String(std::string_view name);
  // Empty where the field is absent or null.
  std::string StringOrNull(std::string_view name);
  // One character: a code point.
  char32_t Character(std::string_view name);
  // The value of any kind; none where the field is absent or null.
  std::optional<JsonValue> Value(std::string_view name);
  // Calls `visit(item, place)` for each item of an array, which is required.
  void ForEach(std::string_view name,
               const std::function<absl::Status(JsonValue, const std::string&)>& visit);
  // Reads the field and forgets it: it changes nothing here.
  void Ignore(std::string_view name) { Find(name); }

  // "file: place.name: what", kept where nothing was wrong before.
  void Fail(std::string_view name, const std::string& what);
  void Fail(const absl::Status& status);
  // As Fail does, and returned.
  absl::Status Refusal(std::string_view name, const std::string& what) const;

  std::string PlaceOf(std::string_view name) const;
  const std::string& file() const { return file_; }
  const absl::Status& status() const { return status_; }
  // The first error; or the first field that nobody asked for.
  absl::Status Finish();

 private:
  struct Field {
    std::string_view name;
    JsonValue value;
    bool asked = false;
  };

  const JsonValue* Find(std::string_view name);
  const JsonValue* Required(std::string_view name, JsonValue::Kind kind);

  std::string file_;
  std::string place_;
  std::vector<Field> fields_;
  absl::Status status_;
};

// The text that field "pattern" ({"String": "..."}) looks for, not empty. `pattern.Regex` is
// refused: regular expressions are not run here.
absl::StatusOr<std::string> StringPattern(ComponentFields& fields);

// Multiplies `growth` by what replacing `pattern` (not empty) with `content` may add to a text.
// InvalidArgument beyond kMostGrowth.
absl::Status LimitGrowth(const ComponentFields& fields, std::string_view pattern,
                         std::string_view content, double* growth);

}  // namespace plait
