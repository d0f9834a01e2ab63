// Reference sums without rounding: each term by frexp, in numbers of 128 bits.
#pragma once

#include <algorithm>
#include <cmath>

#include "absl/status/status.h"
#include "base/execution.h"
#include "kernels/exact_sum_args.h"

namespace plait::reference {

inline absl::Status ExactSums(Execution&, const ExactSumsArgs& args) {
  int64_t* const words = args.words.as<int64_t>();
  std::fill_n(words, args.words.size, 0);
  for (int64_t i = 0; i < args.x.size; ++i) {
    const double value = args.x.as<double>()[i];
    int64_t* const sum = words + i / kExactSumTerms * kExactSumWords;
    if (!std::isfinite(value)) {
      ++sum[kExactSumBadWord];
      continue;
    }
    // |value| = mantissa * 2^(position - 1074); subnormal numbers have zeros at the end.
    int exponent = 0;
    auto mantissa = static_cast<uint64_t>(std::ldexp(std::frexp(std::abs(value), &exponent), 53));
    int position = exponent - 53 + 1074;
    if (position < 0) {
      mantissa >>= -position;
      position = 0;
    }
    const auto bits = static_cast<unsigned __int128>(mantissa) << (position % 32);
    for (int k = 0; k < 3; ++k) {
      const auto amount = static_cast<int64_t>(bits >> (32 * k) & 0xffffffff);
      sum[position / 32 + k] += value < 0 ? -amount : amount;
    }
  }
  return absl::OkStatus();
}

}  // namespace plait::reference
