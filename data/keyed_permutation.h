// KeyedPermutation: a bijection of [0, size) chosen by a random key, computed element by element,
// with no table. A balanced Feistel network over the smallest even number of bits that covers the
// size; a result outside [0, size) is put in again until one falls inside ("cycle walking": fewer
// than four rounds through on average).
//   (left, right) -> (right, left xor F(round, right)), F = one Philox word
// Source: Luby and Rackoff, 1988 (Feistel networks); Black and Rogaway, "Ciphers with Arbitrary
// Finite Domains", 2002.
#pragma once

#include <cstdint>

#include "base/random.h"

namespace plait {

class KeyedPermutation {
 public:
  // size from 1 to 2^62.
  KeyedPermutation(const RandomKey& key, int64_t size);

  // index in [0, size). Where it goes, in [0, size).
  int64_t operator()(int64_t index) const;

 private:
  RandomKey key_;
  int64_t size_;
  int half_bits_;
};

}  // namespace plait
