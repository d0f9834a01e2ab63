#include "data/utf8.h"

#include <simdjson.h>

namespace plait {

Utf8Prefix ClassifyUtf8Prefix(std::string_view bytes, int* length) {
  const auto byte = [&](size_t i) { return static_cast<uint8_t>(bytes[i]); };
  const uint8_t lead = byte(0);
  *length = 1;
  if (lead < 0x80) return Utf8Prefix::kComplete;
  if (lead < 0xc2 || lead > 0xf4) return Utf8Prefix::kInvalid;
  const int size = lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : 4;
  // The second byte's range excludes overlong forms, surrogates and what lies above U+10FFFF.
  uint8_t low = 0x80, high = 0xbf;
  if (lead == 0xe0) low = 0xa0;
  if (lead == 0xed) high = 0x9f;
  if (lead == 0xf0) low = 0x90;
  if (lead == 0xf4) high = 0x8f;
  for (int i = 1; i < size; ++i) {
    if (static_cast<size_t>(i) == bytes.size()) {
      *length = i;
      return Utf8Prefix::kIncomplete;
    }
    if (byte(i) < low || byte(i) > high) {
      *length = i;
      return Utf8Prefix::kInvalid;
    }
    low = 0x80;
    high = 0xbf;
  }
  *length = size;
  return Utf8Prefix::kComplete;
}

int64_t FirstInvalidUtf8(std::string_view text) {
  if (simdjson::validate_utf8(text.data(), text.size())) return -1;
  size_t at = 0;
  int length = 0;
  while (at < text.size() &&
         ClassifyUtf8Prefix(text.substr(at), &length) == Utf8Prefix::kComplete) {
    at += static_cast<size_t>(length);
  }
  return static_cast<int64_t>(at);
}

int64_t Utf8CutBefore(std::string_view text, int64_t limit) {
  if (limit >= static_cast<int64_t>(text.size())) return static_cast<int64_t>(text.size());
  while (limit > 0 && (static_cast<uint8_t>(text[static_cast<size_t>(limit)]) & 0xc0) == 0x80)
    --limit;
  return limit;
}

void AppendUtf8(char32_t character, std::string* text) {
  const auto put = [text](char32_t byte) { text->push_back(static_cast<char>(byte)); };
  const auto tail = [&](int shift) { put(0x80 | (character >> shift & 0x3f)); };
  if (character < 0x80) {
    put(character);
  } else if (character < 0x800) {
    put(0xc0 | character >> 6);
    tail(0);
  } else if (character < 0x10000) {
    put(0xe0 | character >> 12);
    tail(6);
    tail(0);
  } else {
    put(0xf0 | character >> 18);
    tail(12);
    tail(6);
    tail(0);
  }
}

}  // namespace plait
