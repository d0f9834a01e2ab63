#include "data/post_processor.h"

#include <map>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "data/component_fields.h"

namespace plait {
namespace {

using IdsOfName = std::map<std::string, std::vector<int32_t>, std::less<>>;

absl::StatusOr<IdsOfName> ReadSpecialTokens(const std::string& file, const std::string& place,
                                            JsonValue tokens, int64_t vocabulary) {
  IdsOfName ids_of_name;
  const absl::Status status = tokens.ForEachMember([&](std::string_view name, JsonValue token) {
    ComponentFields fields(file, absl::StrCat(place, ".", std::string(name)), token);
    fields.Ignore("id");
    fields.Ignore("tokens");
    std::vector<int32_t> ids;
    fields.ForEach("ids", [&](JsonValue id, const std::string& id_place) -> absl::Status {
      if (id.kind() != JsonValue::Kind::kInteger || id.integer() < 0 ||
          id.integer() >= vocabulary) {
        return absl::InvalidArgumentError(absl::StrCat(
            file, ": ", id_place, ": expected an id below the vocabulary's ", vocabulary));
      }
      ids.push_back(static_cast<int32_t>(id.integer()));
      return absl::OkStatus();
    });
    PLAIT_RETURN_IF_ERROR(fields.Finish());
    if (!ids_of_name.emplace(std::string(name), std::move(ids)).second)
      return fields.Refusal("", "is there twice");
    return absl::OkStatus();
  });
  PLAIT_RETURN_IF_ERROR(status);
  return ids_of_name;
}

}  // namespace

absl::StatusOr<PostProcessor> PostProcessor::FromJson(const std::string& file,
                                                      JsonValue post_processor,
                                                      int64_t vocabulary) {
  PostProcessor result;
  if (!post_processor.is_null())
    PLAIT_RETURN_IF_ERROR(result.Add(file, "post_processor", post_processor, vocabulary));
  return result;
}

absl::Status PostProcessor::Add(const std::string& file, const std::string& place,
                                JsonValue post_processor, int64_t vocabulary) {
  ComponentFields fields(file, place, post_processor);
  const std::string type = fields.String("type");
  PLAIT_RETURN_IF_ERROR(fields.status());
  if (type == "Sequence") {
    fields.ForEach("processors", [&](JsonValue item, const std::string& item_place) {
      return Add(file, item_place, item, vocabulary);
    });
  } else if (type == "ByteLevel") {
    for (const char* name : {"add_prefix_space", "trim_offsets", "use_regex"}) fields.Ignore(name);
  } else if (type == "TemplateProcessing") {
    fields.Fail(AddTemplate(fields, vocabulary));
  } else {
    return fields.Refusal("type", absl::StrCat(type,
                                               " is not supported; supported: Sequence, "
                                               "TemplateProcessing, ByteLevel"));
  }
  return fields.Finish();
}

absl::Status PostProcessor::AddTemplate(ComponentFields& fields, int64_t vocabulary) {
  const std::optional<JsonValue> tokens = fields.Value("special_tokens");
  IdsOfName ids_of_name;
  if (tokens.has_value()) {
    PLAIT_ASSIGN_OR_RETURN(
        ids_of_name,
        ReadSpecialTokens(fields.file(), fields.PlaceOf("special_tokens"), *tokens, vocabulary));
  }
  fields.Ignore("pair");
  bool after_text = false;
  std::vector<int32_t> before, after;
  fields.ForEach("single", [&](JsonValue item, const std::string& place) -> absl::Status {
    ComponentFields piece(fields.file(), place, item);
    const std::optional<JsonValue> special = piece.Value("SpecialToken");
    const std::optional<JsonValue> sequence = piece.Value("Sequence");
    PLAIT_RETURN_IF_ERROR(piece.Finish());
    if (special.has_value() == sequence.has_value())
      return piece.Refusal("", "expected SpecialToken or Sequence");
    ComponentFields content(fields.file(), piece.PlaceOf(special ? "SpecialToken" : "Sequence"),
                            special ? *special : *sequence);
    const std::string id = content.String("id");
    content.Ignore("type_id");
    PLAIT_RETURN_IF_ERROR(content.Finish());
    if (sequence.has_value()) {
      if (id != "A" || after_text) return content.Refusal("id", "expected A, once");
      after_text = true;
      return absl::OkStatus();
    }
    const auto ids = ids_of_name.find(id);
    if (ids == ids_of_name.end())
      return content.Refusal("id", absl::StrCat("\"", id, "\" is not among the special_tokens"));
    std::vector<int32_t>& side = after_text ? after : before;
    side.insert(side.end(), ids->second.begin(), ids->second.end());
    return absl::OkStatus();
  });
  PLAIT_RETURN_IF_ERROR(fields.status());
  if (!after_text) return fields.Refusal("single", "has no Sequence A: the text is left out");
  has_template_ = true;
  before_.insert(before_.begin(), before.begin(), before.end());
  after_.insert(after_.end(), after.begin(), after.end());
  return absl::OkStatus();
}

}  // namespace plait
