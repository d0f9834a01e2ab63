// ExactSum: a sum of doubles without rounding, so that it does not depend on the order of the terms
// nor on which rank adds which: a number with one fixed point, wide enough for every double (after
// U. Kulisch, "Computer Arithmetic and Validity", 2008).
#pragma once

#include <array>
#include <cstdint>

#include "absl/status/status.h"
#include "parallel/communicator.h"

namespace plait {

class ExactSum {
 public:
  // 64-bit words that Reduce sends.
  static constexpr int kWords = (2046 + 53) / 32 + 4;

  // At most 2^31 terms. One that is not finite makes the total not finite.
  void Add(double value);
  // Adds the sums of all ranks of the communicator up; the same on each. Collective.
  absl::Status Reduce(Communicator& communicator);
  // The sum, rounded once or twice; NaN where a term was not finite.
  double Total() const;

 private:
  // A double is an integer of 53 bits times 2^(position - 1074).
  static constexpr int kDigitBits = 32;
  static constexpr int kDigits = kWords - 1;

  // Leaves 0 <= digit < 2^32 in all but the last.
  void Carry();

  std::array<int64_t, kWords> digits_{};  // lowest first; the last counts terms not finite
};

}  // namespace plait
