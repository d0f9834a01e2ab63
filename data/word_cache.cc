#include "data/word_cache.h"

#include <cstring>
#include <utility>

namespace plait {
namespace {

constexpr size_t kFirstEntries = 1 << 10;
constexpr size_t kMostWords = 1 << 18;

uint64_t LoadBytes(const char* bytes, size_t count) {
  uint64_t value = 0;
  std::memcpy(&value, bytes, count);
  return value;
}

uint64_t Mix(uint64_t a, uint64_t b) {
  const unsigned __int128 product = static_cast<unsigned __int128>(a) * b;
  return static_cast<uint64_t>(product) ^ static_cast<uint64_t>(product >> 64);
}

}  // namespace

uint64_t WordCache::HashOf(std::string_view word) {
  uint64_t hash = 0x9e3779b97f4a7c15ull ^ word.size();
  const char* bytes = word.data();
  size_t rest = word.size();
  for (; rest > 8; rest -= 8, bytes += 8)
    hash = Mix(hash ^ LoadBytes(bytes, 8), 0xd6e8feb86659fd93ull);
  return Mix(hash ^ LoadBytes(bytes, rest), 0xa0761d6478bd642full);
}

std::span<const int32_t> WordCache::Find(std::string_view word) const {
  if (num_words_ == 0 || word.size() > kMaxWordBytes) return {};
  const uint64_t hash = HashOf(word);
  const size_t mask = entries_.size() - 1;
  for (size_t at = hash & mask; entries_[at].word_bytes != 0; at = (at + 1) & mask) {
    const Entry& entry = entries_[at];
    if (entry.hash == hash && entry.word_bytes == word.size() &&
        std::memcmp(words_.data() + entry.word_begin, word.data(), word.size()) == 0) {
      return {ids_.data() + entry.ids_begin, entry.num_ids};
    }
  }
  return {};
}

size_t WordCache::FreeEntry(uint64_t hash) const {
  const size_t mask = entries_.size() - 1;
  size_t at = hash & mask;
  while (entries_[at].word_bytes != 0) at = (at + 1) & mask;
  return at;
}

void WordCache::Grow() {
  const std::vector<Entry> old = std::exchange(
      entries_, std::vector<Entry>(entries_.empty() ? kFirstEntries : 2 * entries_.size()));
  for (const Entry& entry : old) {
    if (entry.word_bytes != 0) entries_[FreeEntry(entry.hash)] = entry;
  }
}

void WordCache::Add(std::string_view word, std::span<const int32_t> ids) {
  if (word.empty() || ids.empty() || word.size() > kMaxWordBytes) return;
  if (num_words_ == kMostWords) *this = WordCache();
  if (2 * (num_words_ + 1) > entries_.size()) Grow();
  const uint64_t hash = HashOf(word);
  entries_[FreeEntry(hash)] = {
      hash, static_cast<uint32_t>(words_.size()), static_cast<uint32_t>(ids_.size()),
      static_cast<uint32_t>(word.size()), static_cast<uint32_t>(ids.size())};
  words_ += word;
  ids_.insert(ids_.end(), ids.begin(), ids.end());
  ++num_words_;
}

}  // namespace plait
