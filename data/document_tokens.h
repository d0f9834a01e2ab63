// Which tokens of a tokenizer.json begin and end a document: the file itself does not say. In this
// order: bos_token and eos_token of a tokenizer_config.json; what the template of the
// post-processor puts around a text; an added token with one of the usual names.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "data/json_tokenizer.h"

namespace plait {

struct DocumentTokens {
  int32_t bos = -1, eos = -1, pad = -1, unk = -1;  // -1: not known
  // Whether a prompt begins with bos where the post-processor says nothing: not where the
  // tokenizer_config.json has "add_bos_token": false or "bos_token": null.
  bool bos_begins_prompts = true;
};

// config: content of a tokenizer_config.json, or "". InvalidArgument, beginning with `config_name`,
// where it is not JSON or names a token that the tokenizer does not have.
absl::StatusOr<DocumentTokens> FindDocumentTokens(const JsonTokenizer& tokenizer,
                                                  const std::string& config,
                                                  const std::string& config_name);

}  // namespace plait
