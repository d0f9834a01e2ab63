// Trains a SentencePiece tokenizer: byte-pair encoding with byte fallback, digits apart, no
// normalisation, no whitespace removed, no dummy prefix. Ids: 0 <unk>, 1 <s>, 2 </s>, 3 to 258 the
// bytes, then the merges. The same texts and settings give the same bytes of model, whatever the
// number of threads of the caller. Source of the settings: Touvron et al., "Llama 2", 2023 (BPE,
// byte fallback, digits apart).
#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "absl/status/statusor.h"

namespace plait {

struct TokenizerTrainingOptions {
  int64_t vocabulary_size = 32000;
  // Share of the text's characters that get a piece of their own; the others are spelled in bytes.
  double character_coverage = 0.9995;
};

// InvalidArgument for a size that no tokenizer can have.
absl::Status CheckVocabularySize(int64_t vocabulary_size);

// `next` gives one text after the other (valid UTF-8) and false at the end; all of them are held in
// memory. Returns the bytes of the .model file. InvalidArgument, with the largest possible size,
// where the texts cannot fill the vocabulary.
absl::StatusOr<std::string> TrainTokenizer(const TokenizerTrainingOptions& options,
                                           const std::function<bool(std::string*)>& next);

}  // namespace plait
