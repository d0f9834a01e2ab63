#include "base/random.h"

#include <Random123/philox.h>
#include <xxhash.h>

#include <cmath>
#include <numbers>

namespace plait {

RandomKey::RandomKey(uint64_t seed, RandomPurpose purpose, std::string_view name, uint32_t step)
    : step_(step), name_hash_(XXH32(name.data(), name.size(), 0)) {
  // Philox4x32 has a 64-bit key: the purpose is folded into the seed by a bijection of the seed per
  // purpose.
  const uint64_t mixed = seed ^ (static_cast<uint64_t>(purpose) * 0x9e3779b97f4a7c15ull);
  key_ = {static_cast<uint32_t>(mixed), static_cast<uint32_t>(mixed >> 32)};
}

std::array<uint32_t, 4> RandomKey::Words(uint64_t element) const {
  const r123::Philox4x32 philox;
  r123::Philox4x32::ctr_type counter = {
      {static_cast<uint32_t>(element), static_cast<uint32_t>(element >> 32), name_hash_, step_}};
  r123::Philox4x32::key_type key = {{key_[0], key_[1]}};
  const auto words = philox(counter, key);
  return {words[0], words[1], words[2], words[3]};
}

double RandomKey::Uniform(uint64_t element) const {
  const auto words = Words(element);
  const uint64_t bits = (static_cast<uint64_t>(words[0]) << 32 | words[1]) >> 11;
  return static_cast<double>(bits) * 0x1.0p-53;
}

double RandomKey::Normal(uint64_t element) const {
  const auto words = Words(element);
  const uint64_t a = (static_cast<uint64_t>(words[0]) << 32 | words[1]) >> 11;
  const uint64_t b = (static_cast<uint64_t>(words[2]) << 32 | words[3]) >> 11;
  const double radius = std::sqrt(-2.0 * std::log((static_cast<double>(a) + 1.0) * 0x1.0p-53));
  return radius * std::cos(2.0 * std::numbers::pi * static_cast<double>(b) * 0x1.0p-53);
}

}  // namespace plait
