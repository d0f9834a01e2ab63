#include "data/keyed_permutation.h"

#include "base/check.h"

namespace plait {
namespace {

constexpr uint64_t kRounds = 6;

}  // namespace

KeyedPermutation::KeyedPermutation(const RandomKey& key, int64_t size)
    : key_(key), size_(size), half_bits_(1) {
  PLAIT_CHECK(size >= 1 && size <= int64_t{1} << 62);
  while (int64_t{1} << (2 * half_bits_) < size) ++half_bits_;
}

int64_t KeyedPermutation::operator()(int64_t index) const {
  PLAIT_CHECK(index >= 0 && index < size_);
  const uint64_t mask = (uint64_t{1} << half_bits_) - 1;
  uint64_t value = static_cast<uint64_t>(index);
  do {
    uint64_t left = value >> half_bits_, right = value & mask;
    for (uint64_t round = 0; round < kRounds; ++round) {
      const uint64_t mixed = left ^ (key_.Words(round << 32 | right)[0] & mask);
      left = right;
      right = mixed;
    }
    value = left << half_bits_ | right;
  } while (value >= static_cast<uint64_t>(size_));
  return static_cast<int64_t>(value);
}

}  // namespace plait
