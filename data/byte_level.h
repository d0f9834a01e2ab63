// The byte-level alphabet of GPT-2: a visible character for each byte, so that pieces are text.
// Printable bytes stand for themselves, the other 68 are U+0100, U+0101 and on, in their order.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>

namespace plait {

// The characters of the bytes, one after the other.
void AppendByteLevel(std::string_view bytes, std::string* text);

// The byte of a character of the alphabet, or -1.
int ByteOfByteLevel(char32_t character);

}  // namespace plait
