#include "trainer/leaf_sums.h"

#include <algorithm>
#include <numeric>

#include "base/status_macros.h"
#include "parallel/host_collectives.h"

namespace plait {

absl::StatusOr<std::vector<double>> SumOverLeaves(const DeviceMesh& mesh, const Tensor& values) {
  Communicator& ranks = mesh.world();
  const int64_t rows = values.shape()[0], columns = values.shape()[1];
  PLAIT_ASSIGN_OR_RETURN(const Tensor all, GatherOnHost(ranks, values));
  // By data-parallel rank; in the world's order for each.
  std::vector<int64_t> order(static_cast<size_t>(ranks.size()));
  std::iota(order.begin(), order.end(), int64_t{0});
  std::ranges::stable_sort(order, {}, [&mesh](int64_t r) { return mesh.data_parallel_rank_of(r); });
  std::vector<double> sums(static_cast<size_t>(columns), 0.0);
  for (int64_t j = 0; j < rows; ++j) {
    for (const int64_t r : order) {
      const double* part = all.data<double>() + (r * rows + j) * columns;
      for (int64_t c = 0; c < columns; ++c) sums[c] += part[c];
    }
  }
  return sums;
}

}  // namespace plait
