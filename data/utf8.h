// UTF-8 as Unicode defines it: no overlong forms, no surrogates, nothing above U+10FFFF.
#pragma once

#include <cstdint>
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

}  // namespace plait
