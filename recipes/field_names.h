// Names of the schema's fields and values as messages show them. Internal to recipes/.
#pragma once

#include <google/protobuf/message.h>

#include <string>

namespace plait {

// "model.attention.heads", "stages.1.steps"; index -1 for a field that is not repeated.
std::string FieldPath(const std::string& parent, const google::protobuf::FieldDescriptor* field,
                      int index);

// "model" for Model, "model.attention" for Attention: where the first field of that type lies in a
// recipe. A repeated one has no index ("stages").
std::string PathOfType(const google::protobuf::Descriptor* descriptor);

// "model has no field 'hedas'; nearest is 'heads'", or the list of fields where none is near.
std::string UnknownField(const google::protobuf::Descriptor* descriptor, const std::string& name);

// "family, vocabulary, ...": every field of a message.
std::string FieldList(const google::protobuf::Descriptor* descriptor);

// "JAMBA, LLAMA": every value but the unspecified one.
std::string AcceptedValues(const google::protobuf::EnumDescriptor* descriptor);

// "model.family = LAMA is not one of JAMBA, LLAMA; nearest is LLAMA", for the schema's field of
// that name that holds an enum; empty where there is none.
std::string UnknownEnumValue(const std::string& field_name, const std::string& value);

// What a scalar breaks by itself: a number that is not finite, an enum value without a name. The
// rule is empty if nothing.
struct ScalarRule {
  std::string value;  // "nan"
  std::string rule;   // "is not a finite number"
};
ScalarRule BrokenScalarRule(const google::protobuf::Message& message,
                            const google::protobuf::FieldDescriptor* field, int index);

}  // namespace plait
