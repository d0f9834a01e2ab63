#include "kernels/cpu/exact_sum.h"

#include <algorithm>

namespace plait::cpu {

absl::Status ExactSums(Execution& execution, const ExactSumsArgs& args) {
  const double* const x = args.x.as<double>();
  const int64_t sums = NumExactSums(args.x.size);
#pragma omp parallel for num_threads(execution.num_threads()) schedule(static)
  for (int64_t k = 0; k < sums; ++k) {
    int64_t* const words = args.words.as<int64_t>() + k * kExactSumWords;
    std::fill_n(words, kExactSumWords, 0);
    const int64_t end = std::min(args.x.size, (k + 1) * kExactSumTerms);
    for (int64_t i = k * kExactSumTerms; i < end; ++i) {
      if (IsExactSumTerm(x[i])) {
        const ExactSumTerm term = SplitForExactSum(x[i]);
        for (int j = 0; j < 3; ++j) words[term.first + j] += term.amounts[j];
      } else {
        ++words[kExactSumBadWord];
      }
    }
  }
  return absl::OkStatus();
}

}  // namespace plait::cpu
