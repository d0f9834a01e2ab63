// CRC-32C (Castagnoli) of bytes, as in iSCSI: RFC 3720, section 12.1. For records of some KB: a
// byte at a time.
#pragma once

#include <cstdint>
#include <string_view>

namespace plait {

uint32_t Crc32c(std::string_view bytes);

}  // namespace plait
