#include "kernels/cuda/device.h"
#include "kernels/cuda/exact_sum.h"
#include "kernels/cuda/runtime.h"

namespace plait::cuda {
namespace {

constexpr int kThreads = 64;
constexpr int kWords = static_cast<int>(kExactSumWords);

__global__ void __launch_bounds__(kThreads) ExactSumsKernel(ExactSumsArgs args) {
  // Word by word, one of each thread beside the other's: no two threads meet in a bank.
  PLAIT_SHARED(int64_t, words, kWords * kThreads);
  const int thread = static_cast<int>(threadIdx.x);
  int64_t* const own = words + thread;
  for (int word = 0; word < kWords; ++word) own[word * kThreads] = 0;
  const int64_t begin = blockIdx.x * kExactSumTerms;
  const int64_t count = args.x.size - begin < kExactSumTerms ? args.x.size - begin : kExactSumTerms;
  const double* const x = args.x.as<double>() + begin;
  for (int64_t i = thread; i < count; i += kThreads) {
    if (IsExactSumTerm(x[i])) {
      const ExactSumTerm term = SplitForExactSum(x[i]);
      PLAIT_UNROLL
      for (int k = 0; k < 3; ++k) own[(term.first + k) * kThreads] += term.amounts[k];
    } else {
      ++own[kExactSumBadWord * kThreads];
    }
  }
  __syncthreads();
  for (int word = thread; word < kWords; word += kThreads) {
    int64_t sum = 0;
    // Each begins at another thread's, for the banks' sake.
    for (int i = 0; i < kThreads; ++i) sum += words[word * kThreads + (i + thread) % kThreads];
    args.words.as<int64_t>()[blockIdx.x * kExactSumWords + word] = sum;
  }
}

}  // namespace

absl::Status ExactSums(Execution& execution, const ExactSumsArgs& args) {
  if (args.x.size == 0) return absl::OkStatus();
  return ToStatus(LaunchKernel(ExactSumsKernel, {static_cast<unsigned>(NumExactSums(args.x.size))},
                               {kThreads}, 0, execution.compute().handle(), args),
                  "exact_sums");
}

}  // namespace plait::cuda
