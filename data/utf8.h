// UTF-8 as Unicode defines it: no overlong forms, no surrogates, nothing above U+10FFFF.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace plait {

// Byte offset of the first character that is not valid UTF-8, or -1.
int64_t FirstInvalidUtf8(std::string_view text);

enum class Utf8Prefix { kComplete, kIncomplete, kInvalid };

// What `bytes` (not empty) begins with: a whole character, the beginning of one, or neither.
// `length` gets the character's bytes; for kInvalid the bytes of the ill-formed beginning, at
// least 1.
Utf8Prefix ClassifyUtf8Prefix(std::string_view bytes, int* length);

// The largest position <= `limit` at which `text` (valid UTF-8) can be cut between characters.
int64_t Utf8CutBefore(std::string_view text, int64_t limit);

// The first character of `text`, which is valid UTF-8 and not empty, and its bytes.
inline char32_t DecodeUtf8(std::string_view text, int* length) {
  const auto byte = [text](size_t i) { return static_cast<uint8_t>(text[i]); };
  const auto tail = [&byte](size_t i) { return static_cast<char32_t>(byte(i) & 0x3f); };
  const uint8_t lead = byte(0);
  *length = lead < 0x80 ? 1 : lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : 4;
  switch (*length) {
    case 1:
      return lead;
    case 2:
      return static_cast<char32_t>(lead & 0x1f) << 6 | tail(1);
    case 3:
      return static_cast<char32_t>(lead & 0x0f) << 12 | tail(1) << 6 | tail(2);
    default:
      return static_cast<char32_t>(lead & 0x07) << 18 | tail(1) << 12 | tail(2) << 6 | tail(3);
  }
}

// character: a code point, no surrogate.
void AppendUtf8(char32_t character, std::string* text);

}  // namespace plait
