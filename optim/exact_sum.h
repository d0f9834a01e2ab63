// ExactSum: adds sums without rounding up, over parts of an array and over ranks, and rounds the
// total (kernels/exact_sum_args.h).
#pragma once

#include <array>
#include <cstdint>
#include <span>

#include "absl/status/status.h"
#include "kernels/exact_sum_args.h"
#include "parallel/communicator.h"

namespace plait {

class ExactSum {
 public:
  // words: of sums that ExactSums made, one after another.
  void Add(std::span<const int64_t> words);
  // Adds the sums of all ranks of the communicator up; the same on each. Collective.
  absl::Status Reduce(Communicator& communicator);

  // Whether all terms were.
  bool is_finite() const { return words_[kExactSumBadWord] == 0; }
  // The sum, rounded once or twice; NaN where a term was not finite.
  double Total() const;

 private:
  // Leaves 0 <= word < 2^32 in all but the last two.
  void Carry();

  std::array<int64_t, kExactSumWords> words_{};
};

}  // namespace plait
