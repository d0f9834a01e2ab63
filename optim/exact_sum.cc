#include "optim/exact_sum.h"

#include <cmath>
#include <limits>

#include "base/status_macros.h"
#include "parallel/host_collectives.h"

namespace plait {
namespace {

constexpr int kLowestExponent = -1074;
constexpr int64_t kDigitMask = 0xffffffff;

}  // namespace

void ExactSum::Add(double value) {
  if (!std::isfinite(value)) {
    ++digits_[kDigits];
    return;
  }
  int exponent = 0;
  const double fraction = std::frexp(std::abs(value), &exponent);
  // |value| = mantissa x 2^(exponent - 53); subnormal numbers have zeros at the end.
  int position = exponent - 53 - kLowestExponent;
  auto mantissa = static_cast<uint64_t>(std::ldexp(fraction, 53));
  if (position < 0) {
    mantissa >>= -position;
    position = 0;
  }
  const auto bits = static_cast<unsigned __int128>(mantissa) << (position % kDigitBits);
  const int64_t sign = value < 0 ? -1 : 1;
  const int first = position / kDigitBits;
  for (int i = 0; i < 3; ++i) {
    digits_[first + i] += sign * static_cast<int64_t>((bits >> (kDigitBits * i)) & kDigitMask);
  }
}

void ExactSum::Carry() {
  for (int i = 0; i + 1 < kDigits; ++i) {
    digits_[i + 1] += digits_[i] >> kDigitBits;  // rounds down, also below zero
    digits_[i] &= kDigitMask;
  }
}

absl::Status ExactSum::Reduce(Communicator& communicator) {
  Carry();
  const auto size = static_cast<int64_t>(digits_.size());
  return AllReduceOnHost(communicator, {digits_.data(), DType::kI64, size}, ReduceOperation::kSum);
}

double ExactSum::Total() const {
  if (digits_[kDigits] != 0) return std::numeric_limits<double>::quiet_NaN();
  ExactSum carried = *this;
  carried.Carry();
  // Below zero the digits are those of a complement: turn them round.
  const double sign = carried.digits_[kDigits - 1] < 0 ? -1 : 1;
  if (sign < 0) {
    for (int i = 0; i < kDigits; ++i) carried.digits_[i] = -carried.digits_[i];
    carried.Carry();
  }
  double total = 0;
  for (int i = kDigits - 1; i >= 0; --i) {
    total += std::ldexp(static_cast<double>(carried.digits_[i]), kDigitBits * i + kLowestExponent);
  }
  return sign * total;
}

}  // namespace plait
