#include "optim/exact_sum.h"

#include <cmath>
#include <limits>

#include "base/check.h"
#include "base/status_macros.h"
#include "parallel/host_collectives.h"

namespace plait {
namespace {

constexpr int kLowestExponent = -1074;
constexpr int kDigitBits = 32;
constexpr int64_t kDigitMask = 0xffffffff;
constexpr int kDigits = kExactSumBadWord;

}  // namespace

void ExactSum::Add(std::span<const int64_t> words) {
  PLAIT_CHECK_EQ(words.size() % kExactSumWords, 0u);
  for (size_t begin = 0; begin < words.size(); begin += kExactSumWords) {
    for (size_t i = 0; i < words_.size(); ++i) words_[i] += words[begin + i];
    Carry();
  }
}

void ExactSum::Carry() {
  for (int i = 0; i + 1 < kDigits; ++i) {
    words_[i + 1] += words_[i] >> kDigitBits;  // rounds down, also below zero
    words_[i] &= kDigitMask;
  }
}

absl::Status ExactSum::Reduce(Communicator& communicator) {
  const auto size = static_cast<int64_t>(words_.size());
  return AllReduceOnHost(communicator, {words_.data(), DType::kI64, size}, ReduceOperation::kSum);
}

double ExactSum::Total() const {
  if (!is_finite()) return std::numeric_limits<double>::quiet_NaN();
  ExactSum carried = *this;
  carried.Carry();
  // Below zero the digits are those of a complement: turn them round.
  const double sign = carried.words_[kDigits - 1] < 0 ? -1 : 1;
  if (sign < 0) {
    for (int i = 0; i < kDigits; ++i) carried.words_[i] = -carried.words_[i];
    carried.Carry();
  }
  double total = 0;
  for (int i = kDigits - 1; i >= 0; --i) {
    total += std::ldexp(static_cast<double>(carried.words_[i]), kDigitBits * i + kLowestExponent);
  }
  return sign * total;
}

}  // namespace plait
