// Ids of words seen before, for encoding much text: natural text repeats most of its words. One per
// thread and tokenizer.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace plait {

class WordCache {
 public:
  // Longer words are not kept: they seldom come again.
  static constexpr size_t kMaxWordBytes = 64;

  // The ids of `word`, valid until the next Add; null data where it is not kept.
  std::span<const int32_t> Find(std::string_view word) const;
  // Keeps a word that Find does not know. Forgets all others where they have become too many.
  void Add(std::string_view word, std::span<const int32_t> ids);

  size_t num_words() const { return num_words_; }

 private:
  struct Entry {
    uint64_t hash = 0;
    uint32_t word_begin = 0, ids_begin = 0;
    uint32_t word_bytes = 0, num_ids = 0;  // 0 bytes: a free entry
  };

  static uint64_t HashOf(std::string_view word);
  size_t FreeEntry(uint64_t hash) const;
  void Grow();

  std::vector<Entry> entries_;  // open addressing; a power of two, at most half full
  size_t num_words_ = 0;
  std::string words_;         // one after the other
  std::vector<int32_t> ids_;  // likewise
};

}  // namespace plait
