#include "recipes/field_names.h"

#include <google/protobuf/descriptor.h>

#include <cmath>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "recipes/nearest_name.h"
#include "recipes/schema/recipe.pb.h"
#include "recipes/utf8_text.h"

namespace plait {

using google::protobuf::Descriptor;
using google::protobuf::EnumDescriptor;
using google::protobuf::FieldDescriptor;
using google::protobuf::Message;
using google::protobuf::Reflection;

namespace {

// Depth first; the schema has no recursive message.
std::string PathBelow(const Descriptor* from, const Descriptor* wanted, const std::string& path) {
  for (int i = 0; i < from->field_count(); ++i) {
    const FieldDescriptor* field = from->field(i);
    if (field->cpp_type() != FieldDescriptor::CPPTYPE_MESSAGE) continue;
    const std::string name = FieldPath(path, field, -1);
    if (field->message_type() == wanted) return name;
    const std::string below = PathBelow(field->message_type(), wanted, name);
    if (!below.empty()) return below;
  }
  return "";
}

std::string EnumRule(const EnumDescriptor* descriptor, const std::string& value) {
  const std::vector<std::string> names = absl::StrSplit(AcceptedValues(descriptor), ", ");
  const auto nearest = NearestName(value, names);
  return absl::StrCat("is not one of ", AcceptedValues(descriptor),
                      nearest ? absl::StrCat("; nearest is ", *nearest) : "");
}

std::string UnknownEnumValueBelow(const Descriptor* from, const std::string& path,
                                  const std::string& field_name, const std::string& value) {
  for (int i = 0; i < from->field_count(); ++i) {
    const FieldDescriptor* field = from->field(i);
    const std::string name = FieldPath(path, field, -1);
    if (field->cpp_type() == FieldDescriptor::CPPTYPE_ENUM && field->name() == field_name) {
      return absl::StrCat(name, " = ", value, " ", EnumRule(field->enum_type(), value));
    }
    if (field->cpp_type() == FieldDescriptor::CPPTYPE_MESSAGE) {
      const std::string below =
          UnknownEnumValueBelow(field->message_type(), name, field_name, value);
      if (!below.empty()) return below;
    }
  }
  return "";
}

std::vector<std::string> FieldNames(const Descriptor* descriptor) {
  std::vector<std::string> fields;
  for (int i = 0; i < descriptor->field_count(); ++i) {
    fields.push_back(descriptor->field(i)->name());
  }
  return fields;
}

}  // namespace

std::string FieldPath(const std::string& parent, const FieldDescriptor* field, int index) {
  std::string path = parent.empty() ? field->name() : absl::StrCat(parent, ".", field->name());
  if (index >= 0) absl::StrAppend(&path, ".", index);
  return path;
}

std::string PathOfType(const Descriptor* descriptor) {
  const Descriptor* root = recipe::v1::Recipe::descriptor();
  return descriptor == root ? "recipe" : PathBelow(root, descriptor, "");
}

std::string FieldList(const Descriptor* descriptor) {
  return absl::StrJoin(FieldNames(descriptor), ", ");
}

std::string UnknownField(const Descriptor* descriptor, const std::string& name) {
  const std::string start = absl::StrCat(PathOfType(descriptor), " has no field '", name, "'; ");
  if (const auto nearest = NearestName(name, FieldNames(descriptor))) {
    return absl::StrCat(start, "nearest is '", *nearest, "'");
  }
  return absl::StrCat(start, "its fields are ", FieldList(descriptor));
}

std::string AcceptedValues(const EnumDescriptor* descriptor) {
  std::vector<std::string> names;
  for (int i = 0; i < descriptor->value_count(); ++i) {
    if (descriptor->value(i)->number() != 0) names.push_back(descriptor->value(i)->name());
  }
  return absl::StrJoin(names, ", ");
}

std::string UnknownEnumValue(const std::string& field_name, const std::string& value) {
  return UnknownEnumValueBelow(recipe::v1::Recipe::descriptor(), "", field_name, value);
}

ScalarRule BrokenScalarRule(const Message& message, const FieldDescriptor* field, int index) {
  const Reflection& reflection = *message.GetReflection();
  if (field->cpp_type() == FieldDescriptor::CPPTYPE_DOUBLE) {
    const double value = index >= 0 ? reflection.GetRepeatedDouble(message, field, index)
                                    : reflection.GetDouble(message, field);
    if (!std::isfinite(value)) return {absl::StrCat(value), "is not a finite number"};
  }
  if (field->cpp_type() == FieldDescriptor::CPPTYPE_ENUM) {
    const int value = index >= 0 ? reflection.GetRepeatedEnumValue(message, field, index)
                                 : reflection.GetEnumValue(message, field);
    const auto* known = field->enum_type()->FindValueByNumber(value);
    if (known == nullptr || value == 0) {
      return {known == nullptr ? absl::StrCat(value) : known->name(),
              absl::StrCat("is not one of ", AcceptedValues(field->enum_type()))};
    }
  }
  if (field->cpp_type() == FieldDescriptor::CPPTYPE_STRING) {
    const std::string value = index >= 0 ? reflection.GetRepeatedString(message, field, index)
                                         : reflection.GetString(message, field);
    if (FirstInvalidUtf8Byte(value) != std::string::npos) {
      return {absl::StrCat("'", absl::CEscape(value), "'"), "is not valid UTF-8 text"};
    }
  }
  return {};
}

}  // namespace plait
