#include "recipes/recipe_overrides.h"

#include <google/protobuf/descriptor.h>

#include <cmath>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "base/status_macros.h"
#include "recipes/field_names.h"
#include "recipes/nearest_name.h"
#include "recipes/utf8_text.h"

namespace plait {
namespace {

using google::protobuf::EnumValueDescriptor;
using google::protobuf::FieldDescriptor;
using google::protobuf::Message;
using google::protobuf::Reflection;

absl::Status Wrong(const std::string& assignment, const std::string& what) {
  return absl::InvalidArgumentError(absl::StrCat("--set ", assignment, ": ", what));
}

std::string EnumError(const FieldDescriptor* field, const std::string& value) {
  std::vector<std::string> names = absl::StrSplit(AcceptedValues(field->enum_type()), ", ");
  const auto nearest = NearestName(value, names);
  return absl::StrCat("expected one of ", AcceptedValues(field->enum_type()), ", got '", value, "'",
                      nearest ? absl::StrCat("; nearest is ", *nearest) : "");
}

// Sets the field, or appends where it is repeated. Returns what is wrong with the value, or
// nothing.
std::string SetScalar(const FieldDescriptor* field, const std::string& value, Message* message) {
  const Reflection& reflection = *message->GetReflection();
  const auto store = [&](auto set, auto add, const auto& parsed) {
    field->is_repeated() ? (reflection.*add)(message, field, parsed)
                         : (reflection.*set)(message, field, parsed);
    return std::string();
  };
  switch (field->cpp_type()) {
    case FieldDescriptor::CPPTYPE_INT64: {
      int64_t parsed;
      if (!absl::SimpleAtoi(value, &parsed)) return "expected an integer, got '" + value + "'";
      return store(&Reflection::SetInt64, &Reflection::AddInt64, parsed);
    }
    case FieldDescriptor::CPPTYPE_INT32: {
      int32_t parsed;
      if (!absl::SimpleAtoi(value, &parsed)) return "expected an integer, got '" + value + "'";
      return store(&Reflection::SetInt32, &Reflection::AddInt32, parsed);
    }
    case FieldDescriptor::CPPTYPE_UINT64: {
      uint64_t parsed;
      if (!absl::SimpleAtoi(value, &parsed)) {
        return "expected an integer of at least 0, got '" + value + "'";
      }
      return store(&Reflection::SetUInt64, &Reflection::AddUInt64, parsed);
    }
    case FieldDescriptor::CPPTYPE_DOUBLE: {
      double parsed;
      if (!absl::SimpleAtod(value, &parsed) || !std::isfinite(parsed)) {
        return "expected a finite number, got '" + value + "'";
      }
      return store(&Reflection::SetDouble, &Reflection::AddDouble, parsed);
    }
    case FieldDescriptor::CPPTYPE_BOOL:
      if (value != "true" && value != "false") {
        return "expected true or false, got '" + value + "'";
      }
      return store(&Reflection::SetBool, &Reflection::AddBool, value == "true");
    case FieldDescriptor::CPPTYPE_ENUM: {
      const EnumValueDescriptor* parsed = field->enum_type()->FindValueByName(value);
      if (parsed == nullptr || parsed->number() == 0) return EnumError(field, value);
      return store(&Reflection::SetEnum, &Reflection::AddEnum, parsed);
    }
    case FieldDescriptor::CPPTYPE_STRING:
      if (FirstInvalidUtf8Byte(value) != std::string::npos) return "expected valid UTF-8 text";
      field->is_repeated() ? reflection.AddString(message, field, value)
                           : reflection.SetString(message, field, value);
      return "";
    default:
      return absl::StrCat("fields of type ", field->cpp_type_name(), " cannot be set");
  }
}

std::string SetLeaf(const FieldDescriptor* field, const std::string& value, Message* message) {
  if (!field->is_repeated()) return SetScalar(field, value, message);
  message->GetReflection()->ClearField(message, field);
  if (value.empty()) return "";
  for (const std::string& part : std::vector<std::string>(absl::StrSplit(value, ','))) {
    const std::string problem = SetScalar(field, part, message);
    if (!problem.empty()) return problem;
  }
  return "";
}

absl::Status Apply(const std::string& assignment, Message* message) {
  const size_t equals = assignment.find('=');
  if (equals == std::string::npos || equals == 0) {
    return Wrong(assignment, "expected path=value, as in trainer.precision=F32");
  }
  const std::vector<std::string> parts = absl::StrSplit(assignment.substr(0, equals), '.');
  const std::string value = assignment.substr(equals + 1);
  std::string path;
  for (size_t i = 0; i < parts.size(); ++i) {
    const FieldDescriptor* field = message->GetDescriptor()->FindFieldByName(parts[i]);
    if (field == nullptr) {
      return Wrong(assignment, UnknownField(message->GetDescriptor(), parts[i]));
    }
    path = FieldPath(path, field, -1);
    const bool is_last = i + 1 == parts.size();
    if (field->cpp_type() != FieldDescriptor::CPPTYPE_MESSAGE) {
      if (!is_last) return Wrong(assignment, absl::StrCat(path, " is a value and has no fields"));
      const std::string problem = SetLeaf(field, value, message);
      return problem.empty() ? absl::OkStatus() : Wrong(assignment, problem);
    }
    if (field->is_repeated()) {
      const int size = message->GetReflection()->FieldSize(*message, field);
      int index = -1;
      if (is_last || !absl::SimpleAtoi(parts[i + 1], &index) || index < 0 || index >= size) {
        return Wrong(assignment,
                     absl::StrCat(path, " has ", size,
                                  " entries; name one by its index from 0, as in ", path, ".0"));
      }
      path = absl::StrCat(path, ".", index);
      message = message->GetReflection()->MutableRepeatedMessage(message, field, index);
      ++i;
    } else {
      message = message->GetReflection()->MutableMessage(message, field);
    }
    if (i + 1 == parts.size()) break;
  }
  return Wrong(assignment, absl::StrCat(path, " is a group of fields; set one of them: ",
                                        FieldList(message->GetDescriptor())));
}

}  // namespace

absl::Status ApplyOverride(const std::string& assignment, recipe::v1::Recipe& recipe) {
  recipe::v1::Recipe changed = recipe;
  PLAIT_RETURN_IF_ERROR(Apply(assignment, &changed));
  recipe = std::move(changed);
  return absl::OkStatus();
}

}  // namespace plait
