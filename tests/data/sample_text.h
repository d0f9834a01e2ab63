// Made-up text with the statistics a tokenizer needs: words of uneven frequency, lines, digits,
// several scripts.
#pragma once

#include <string>

#include "base/check.h"
#include "base/random.h"
#include "data/tokenizer_training.h"

namespace plait {

// `words` words; the same for the same seed.
inline std::string SampleText(uint64_t seed, int words) {
  const RandomKey key(seed, RandomPurpose::kTest, "sample text");
  static constexpr const char* kSyllables[] = {"ka", "to", "mi", "ren", "sol", "dra", "lu",
                                               "pe", "ve", "st", "or",  "in",  "al",  "ös",
                                               "né", "ба", "ши", "של",  "نا",  "the"};
  std::string text;
  for (int word = 0; word < words; ++word) {
    const auto w = key.Words(static_cast<uint64_t>(word));
    if (w[0] % 23 == 0) {
      text += std::to_string(w[1] % 2000);
    } else {
      // The square makes small numbers frequent.
      const uint64_t kind = static_cast<uint64_t>(w[1] % 40) * (w[2] % 40);
      text += kSyllables[kind % 20];
      text += kSyllables[kind / 20 % 20];
      if (kind % 3 == 0) text += kSyllables[kind / 7 % 20];
    }
    text += w[3] % 17 == 0 ? ".\n" : w[3] % 11 == 0 ? ", " : " ";
  }
  return text;
}

// Bytes of a tokenizer trained on sample text.
inline std::string TrainedModel(int64_t vocabulary_size) {
  uint64_t seed = 0;
  absl::StatusOr<std::string> model =
      TrainTokenizer({.vocabulary_size = vocabulary_size}, [&seed](std::string* text) {
        *text = SampleText(seed, 300);
        return seed++ < 40;
      });
  PLAIT_CHECK(model.ok());
  return *std::move(model);
}

}  // namespace plait
