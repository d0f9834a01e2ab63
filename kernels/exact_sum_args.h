// Sums of doubles without rounding: the same bits whatever the order of the terms and whoever adds
// which. A sum is a number with one fixed point, wide enough for every double (after U. Kulisch,
// "Computer Arithmetic and Validity", 2008), in kExactSumWords words of 64 bits. Word i is worth
// word * 2^(32 i - 1074); each term adds 32 bits and its sign to three of them, so that they have
// room for 2^31 terms. The last word counts the terms that are not finite instead.
// optim/exact_sum.h adds such sums up and rounds them.
#pragma once

#include <bit>
#include <cstdint>

#include "base/view.h"

namespace plait {

inline constexpr int64_t kExactSumWords = (2046 + 53) / 32 + 4;
inline constexpr int64_t kExactSumBadWord = kExactSumWords - 1;
// Terms of one of the sums that are made.
inline constexpr int64_t kExactSumTerms = 1 << 14;
constexpr int64_t NumExactSums(int64_t terms) {
  return (terms + kExactSumTerms - 1) / kExactSumTerms;
}

// What a finite double adds to the words from `first` on.
struct ExactSumTerm {
  int first = 0;
  int64_t amounts[3] = {};
};
constexpr bool IsExactSumTerm(double value) {
  return (std::bit_cast<uint64_t>(value) >> 52 & 0x7ff) != 0x7ff;
}
constexpr ExactSumTerm SplitForExactSum(double value) {
  const auto bits = std::bit_cast<uint64_t>(value);
  const int exponent = static_cast<int>(bits >> 52 & 0x7ff);
  const uint64_t fraction = bits & ((uint64_t{1} << 52) - 1);
  // |value| = mantissa * 2^(position - 1074); subnormal numbers have no hidden bit.
  const uint64_t mantissa = exponent == 0 ? fraction : fraction | uint64_t{1} << 52;
  const int position = exponent == 0 ? 0 : exponent - 1, shift = position % 32;
  const uint64_t low = mantissa << shift, high = shift == 0 ? 0 : mantissa >> (64 - shift);
  const int64_t sign = bits >> 63 == 0 ? 1 : -1;
  return {position / 32,
          {sign * static_cast<int64_t>(low & 0xffffffff), sign * static_cast<int64_t>(low >> 32),
           sign * static_cast<int64_t>(high)}};
}

struct ExactSumsArgs {
  ConstVectorView x;  // f64
  // i64, [NumExactSums(x.size) * kExactSumWords]: a sum for every kExactSumTerms elements.
  VectorView words;
};

}  // namespace plait
