#include "base/crc32c.h"

#include <array>

namespace plait {
namespace {

// Remainder of each byte, bits reflected.
constexpr std::array<uint32_t, 256> kRemainders = [] {
  constexpr uint32_t kPolynomial = 0x82f63b78;  // 0x1edc6f41 reflected
  std::array<uint32_t, 256> remainders{};
  for (uint32_t byte = 0; byte < 256; ++byte) {
    uint32_t remainder = byte;
    for (int bit = 0; bit < 8; ++bit) {
      remainder = (remainder >> 1) ^ ((remainder & 1) != 0 ? kPolynomial : 0);
    }
    remainders[byte] = remainder;
  }
  return remainders;
}();

}  // namespace

uint32_t Crc32c(std::string_view bytes) {
  uint32_t state = 0xffffffff;
  for (const char byte : bytes) {
    state = (state >> 8) ^ kRemainders[(state ^ static_cast<unsigned char>(byte)) & 0xff];
  }
  return ~state;
}

}  // namespace plait
