#include "data/document_tokens.h"

#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "data/json_value.h"
#include "data/one_line.h"

namespace plait {
namespace {

constexpr int kMaxDepth = 64;
constexpr const char* kUsualBegins[] = {"<s>", "<|startoftext|>", "<|begin_of_text|>", "<bos>",
                                        "<|endoftext|>"};
constexpr const char* kUsualEnds[] = {"</s>", "<|endoftext|>", "<|end_of_text|>", "<eos>"};

// The name of a token: a string, or an object with the string as content.
absl::StatusOr<std::string> NameOf(JsonValue token) {
  std::string name(token.string());
  PLAIT_RETURN_IF_ERROR(token.ForEachMember([&name](std::string_view field, JsonValue value) {
    if (field == "content") name = std::string(value.string());
    return absl::OkStatus();
  }));
  return name;
}

absl::Status ReadConfig(const JsonTokenizer& tokenizer, const std::string& config,
                        const std::string& config_name, DocumentTokens* tokens) {
  PLAIT_ASSIGN_OR_RETURN(const JsonDocument document,
                         JsonDocument::Parse(config, config_name, kMaxDepth));
  const std::pair<std::string_view, int32_t*> fields[] = {{"bos_token", &tokens->bos},
                                                          {"eos_token", &tokens->eos},
                                                          {"pad_token", &tokens->pad},
                                                          {"unk_token", &tokens->unk}};
  return document.root().ForEachMember([&](std::string_view name, JsonValue value) -> absl::Status {
    if ((name == "add_bos_token" && value.kind() == JsonValue::Kind::kBoolean &&
         !value.boolean()) ||
        (name == "bos_token" && value.is_null())) {
      tokens->bos_begins_prompts = false;
    }
    for (const auto& [field, id] : fields) {
      if (name != field || value.is_null()) continue;
      PLAIT_ASSIGN_OR_RETURN(const std::string piece, NameOf(value));
      *id = tokenizer.IdOf(piece);
      if (*id < 0) {
        return absl::InvalidArgumentError(absl::StrCat(config_name, ": ", std::string(field),
                                                       ": \"", piece,
                                                       "\" is no token of the tokenizer"));
      }
    }
    return absl::OkStatus();
  });
}

// The first of the usual names that is a special token.
template <size_t kCount>
int32_t UsualToken(const JsonTokenizer& tokenizer, const char* const (&names)[kCount]) {
  for (const char* name : names) {
    const int32_t id = tokenizer.added_tokens().IdOf(name);
    if (id >= 0 && tokenizer.IsSpecial(id)) return id;
  }
  return -1;
}

}  // namespace

absl::StatusOr<DocumentTokens> FindDocumentTokens(const JsonTokenizer& tokenizer,
                                                  const std::string& config,
                                                  const std::string& config_name) {
  DocumentTokens tokens;
  if (!config.empty()) {
    PLAIT_RETURN_IF_ERROR(OneLine(ReadConfig(tokenizer, config, config_name, &tokens)));
  }
  const PostProcessor& around = tokenizer.post_processor();
  if (tokens.bos < 0 && !around.before().empty()) tokens.bos = around.before().front();
  if (tokens.eos < 0 && !around.after().empty()) tokens.eos = around.after().back();
  if (tokens.bos < 0) tokens.bos = UsualToken(tokenizer, kUsualBegins);
  if (tokens.eos < 0) tokens.eos = UsualToken(tokenizer, kUsualEnds);
  return tokens;
}

}  // namespace plait
