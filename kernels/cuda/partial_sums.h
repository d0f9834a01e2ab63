// The second half of a sum over rows that many blocks share: out += the sum of their partial sums,
// in an order that depends on their number alone.
#pragma once

#include "base/execution.h"
#include "kernels/cuda/device.h"
#include "kernels/cuda/dispatch.h"

namespace plait::cuda {

inline constexpr int kPartialColumns = 32;  // columns of a block
inline constexpr int kPartialTeams = 32;    // threads of a column, which share its rows out

// partial: [rows, dim]. A block has kPartialColumns x kPartialTeams threads.
template <class A, class G>
__global__ void __launch_bounds__(kPartialColumns* kPartialTeams)
    AddPartialsKernel(const A* partial, int64_t rows, int64_t dim, G* out) {
  PLAIT_SHARED(A, teams, kPartialColumns * kPartialTeams);
  const int column = static_cast<int>(threadIdx.x), team = static_cast<int>(threadIdx.y);
  const int64_t d = int64_t{blockIdx.x} * kPartialColumns + column;
  A sum = 0;
  if (d < dim) {
    for (int64_t row = team; row < rows; row += kPartialTeams) sum += partial[row * dim + d];
  }
  teams[team * kPartialColumns + column] = sum;
  __syncthreads();
  if (team > 0 || d >= dim) return;
  for (int other = 1; other < kPartialTeams; ++other) {
    sum += teams[other * kPartialColumns + column];
  }
  out[d] += static_cast<G>(sum);
}

template <class A, class G>
absl::Status AddPartials(Execution& execution, const A* partial, int64_t rows, int64_t dim, G* out,
                         const char* what) {
  const unsigned blocks = BlocksFor(dim, kPartialColumns);
  return ToStatus(LaunchKernel(AddPartialsKernel<A, G>, {blocks}, {kPartialColumns, kPartialTeams},
                               0, execution.compute().handle(), partial, rows, dim, out),
                  what);
}

}  // namespace plait::cuda
