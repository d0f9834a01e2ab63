#include "recipes/config_fields.h"

#include <simdjson.h>

#include <algorithm>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "base/json_numbers.h"
#include "base/status_macros.h"

namespace plait {
namespace {

namespace dom = simdjson::dom;

constexpr size_t kMaxQuotedBytes = 60;

// A field's name on one line.
std::string Quoted(std::string_view field) {
  return absl::Utf8SafeCHexEscape(std::string(field.substr(0, kMaxQuotedBytes)));
}

// Two equal names in one object, at any depth.
absl::Status CheckNames(const dom::element& value, const std::string& name) {
  if (value.is_array()) {
    for (const dom::element item : dom::array(value)) {
      PLAIT_RETURN_IF_ERROR(CheckNames(item, name));
    }
  } else if (value.is_object()) {
    std::set<std::string_view> names;
    for (const dom::key_value_pair field : dom::object(value)) {
      if (!names.insert(field.key).second) {
        return absl::InvalidArgumentError(
            absl::StrCat(name, ": has ", Quoted(field.key), " twice; remove one"));
      }
      PLAIT_RETURN_IF_ERROR(CheckNames(field.value, name));
    }
  }
  return absl::OkStatus();
}

// As JSON on one line, cut where it is long.
std::string Quoted(const dom::element& value) {
  std::string text = simdjson::minify(value);
  if (text.size() <= kMaxQuotedBytes) return text;
  size_t end = kMaxQuotedBytes;
  while ((static_cast<unsigned char>(text[end]) & 0xc0u) == 0x80u) --end;  // a whole character
  return text.substr(0, end) + "...";
}

std::string IntegerRule(int64_t minimum) {
  return absl::StrCat("an integer from ", minimum, " to ", kMaxConfigInteger);
}

bool ToInteger(const dom::element& value, int64_t minimum, int64_t& integer) {
  return value.get(integer) == simdjson::SUCCESS && integer >= minimum &&
         integer <= kMaxConfigInteger;
}

}  // namespace

// The object's value; nothing where there is no object.
struct ConfigFields::Document {
  std::shared_ptr<const dom::parser> parser;  // owns what the elements refer to
  std::optional<dom::object> object;

  std::optional<dom::element> Find(const std::string& field) const {
    dom::element value;
    if (!object || object->at_key(field).get(value) != simdjson::SUCCESS) return std::nullopt;
    return value;
  }
};

ConfigFields::ConfigFields(std::shared_ptr<const Document> document, std::string name)
    : document_(std::move(document)), name_(std::move(name)) {}
ConfigFields::ConfigFields(ConfigFields&&) = default;
ConfigFields::~ConfigFields() = default;

absl::StatusOr<ConfigFields> ConfigFields::Parse(const std::string& text, const std::string& name) {
  if (text.size() > kMaxConfigBytes) {
    return absl::InvalidArgumentError(
        absl::StrCat(name, ": has ", text.size(), " bytes, expected at most ", kMaxConfigBytes));
  }
  auto parser = std::make_shared<dom::parser>();
  const std::string readable = WithReadableNumbers(text, NotFinite::kKeep);
  simdjson::error_code error =
      parser->allocate(std::max<size_t>(readable.size(), 64), kMaxConfigNesting);
  dom::element root;
  if (error == simdjson::SUCCESS) error = parser->parse(readable).get(root);
  if (error != simdjson::SUCCESS) {
    return absl::InvalidArgumentError(
        absl::StrCat(name, ": is not JSON: ", simdjson::error_message(error)));
  }
  if (!root.is_object()) {
    return absl::InvalidArgumentError(
        absl::StrCat(name, ": expected an object, found ", Quoted(root)));
  }
  PLAIT_RETURN_IF_ERROR(CheckNames(root, name));
  return ConfigFields(std::make_shared<Document>(Document{std::move(parser), dom::object(root)}),
                      name);
}

bool ConfigFields::Contains(const std::string& field) const {
  return document_->Find(field).has_value();
}

bool ConfigFields::Has(const std::string& field) const {
  const auto value = document_->Find(field);
  return value && !value->is_null();
}

bool ConfigFields::IsString(const std::string& field, const std::string& text) const {
  const auto value = document_->Find(field);
  std::string_view found;
  return value && value->get(found) == simdjson::SUCCESS && found == text;
}

std::string ConfigFields::Value(const std::string& field) const {
  const auto value = document_->Find(field);
  return value ? Quoted(*value) : "absent";
}

void ConfigFields::Refuse(const std::string& field, const std::string& rule) {
  read_.insert(field);
  if (!status_.ok()) return;
  status_ =
      absl::InvalidArgumentError(absl::StrCat(name_, ": ", field, " = ", Value(field), " ", rule));
}

void ConfigFields::Expect(const std::string& field, const std::string& what) {
  Refuse(field, "is not " + what);
}

void ConfigFields::RefuseIfSet(const std::string& field, const std::string& rule) {
  read_.insert(field);
  const auto value = document_->Find(field);
  if (!value || value->is_null()) return;
  bool flag = false;
  double number = 0;
  dom::array list;
  dom::object object;
  std::string_view text;
  const bool is_unset = (value->get(flag) == simdjson::SUCCESS && !flag) ||
                        (value->get(number) == simdjson::SUCCESS && number == 0) ||
                        (value->get(list) == simdjson::SUCCESS && list.size() == 0) ||
                        (value->get(object) == simdjson::SUCCESS && object.size() == 0) ||
                        (value->get(text) == simdjson::SUCCESS && text.empty());
  if (!is_unset) Refuse(field, rule);
}

int64_t ConfigFields::Integer(const std::string& field, int64_t fallback, int64_t minimum) {
  read_.insert(field);
  const auto value = document_->Find(field);
  if (!value || !status_.ok()) return fallback;
  int64_t integer = 0;
  if (ToInteger(*value, minimum, integer)) return integer;
  Expect(field, IntegerRule(minimum));
  return fallback;
}

std::optional<int64_t> ConfigFields::OptionalInteger(const std::string& field, int64_t minimum) {
  read_.insert(field);
  if (!Has(field)) return std::nullopt;
  return Integer(field, minimum, minimum);
}

double ConfigFields::Number(const std::string& field, double fallback) {
  read_.insert(field);
  const auto value = document_->Find(field);
  if (!value || !status_.ok()) return fallback;
  double number = 0;
  if (value->get(number) == simdjson::SUCCESS) return number;
  Expect(field, "a number");
  return fallback;
}

bool ConfigFields::Boolean(const std::string& field, bool fallback) {
  read_.insert(field);
  const auto value = document_->Find(field);
  if (!value || !status_.ok()) return fallback;
  bool flag = false;
  if (value->get(flag) == simdjson::SUCCESS) return flag;
  Expect(field, "true or false");
  return fallback;
}

std::string ConfigFields::String(const std::string& field, const std::string& fallback) {
  read_.insert(field);
  const auto value = document_->Find(field);
  if (!value || !status_.ok()) return fallback;
  std::string_view text;
  if (value->get(text) == simdjson::SUCCESS) return std::string(text);
  Expect(field, "a string");
  return fallback;
}

std::vector<std::string> ConfigFields::Strings(const std::string& field) {
  read_.insert(field);
  std::vector<std::string> strings;
  if (!Has(field) || !status_.ok()) return strings;
  dom::array list;
  if (document_->Find(field)->get(list) != simdjson::SUCCESS) {
    Expect(field, "a list of strings");
    return strings;
  }
  for (const dom::element item : list) {
    std::string_view text;
    if (item.get(text) != simdjson::SUCCESS) {
      Expect(field, "a list of strings");
      return {};
    }
    strings.emplace_back(text);
  }
  return strings;
}

std::vector<int64_t> ConfigFields::Integers(const std::string& field, int64_t minimum) {
  read_.insert(field);
  std::vector<int64_t> integers;
  if (!Has(field) || !status_.ok()) return integers;
  const std::string what = IntegerRule(minimum) + " or a list of them";
  const dom::element value = *document_->Find(field);
  int64_t integer = 0;
  if (ToInteger(value, minimum, integer)) return {integer};
  dom::array list;
  if (value.get(list) != simdjson::SUCCESS) {
    Expect(field, what);
    return integers;
  }
  for (const dom::element item : list) {
    if (!ToInteger(item, minimum, integer)) {
      Expect(field, what);
      return {};
    }
    integers.push_back(integer);
  }
  return integers;
}

ConfigFields ConfigFields::Object(const std::string& field) {
  read_.insert(field);
  auto inner = std::make_shared<Document>(Document{document_->parser, std::nullopt});
  if (Has(field)) {
    dom::object object;
    if (document_->Find(field)->get(object) == simdjson::SUCCESS) {
      inner->object = object;
    } else {
      Expect(field, "an object");
    }
  }
  return ConfigFields(std::move(inner), absl::StrCat(name_, ": ", field));
}

std::vector<std::string> ConfigFields::Unread() const {
  std::vector<std::string> unread;
  if (!document_->object) return unread;
  for (const dom::key_value_pair field : *document_->object) {
    if (read_.count(std::string(field.key)) > 0) continue;
    unread.push_back(absl::StrCat(Quoted(field.key), " = ", Quoted(field.value)));
  }
  return unread;
}

}  // namespace plait
