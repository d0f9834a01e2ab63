#include "data/byte_level.h"

#include "data/utf8.h"

namespace plait {
namespace {

constexpr char32_t kMostCharacters = 0x144;  // 256 + 68

struct Alphabet {
  std::array<char32_t, 256> character_of_byte = {};
  std::array<int16_t, kMostCharacters> byte_of_character = {};
};

constexpr Alphabet MakeAlphabet() {
  Alphabet alphabet;
  for (int16_t& byte : alphabet.byte_of_character) byte = -1;
  char32_t next = 0x100;
  for (uint32_t byte = 0; byte < 256; ++byte) {
    const bool printable = (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte != 0xad);
    const char32_t character = printable ? byte : next++;
    alphabet.character_of_byte[byte] = character;
    alphabet.byte_of_character[character] = static_cast<int16_t>(byte);
  }
  return alphabet;
}

constexpr Alphabet kAlphabet = MakeAlphabet();

}  // namespace

void AppendByteLevel(std::string_view bytes, std::string* text) {
  for (const char byte : bytes)
    AppendUtf8(kAlphabet.character_of_byte[static_cast<uint8_t>(byte)], text);
}

int ByteOfByteLevel(char32_t character) {
  return character < kMostCharacters ? kAlphabet.byte_of_character[character] : -1;
}

}  // namespace plait
