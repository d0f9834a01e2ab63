#include "trainer/leaf_sums.h"

#include "base/status_macros.h"

namespace plait {

absl::StatusOr<std::vector<double>> SumOverLeaves(Execution& execution, Communicator& ranks,
                                                  const Tensor& values) {
  const int64_t rows = values.shape()[0], columns = values.shape()[1];
  Tensor all = Tensor::OnHost(DType::kF64, {ranks.size(), rows, columns});
  PLAIT_ASSIGN_OR_RETURN(const Event gathered,
                         ranks.AllGather(execution.communication(), values.vector(), all.vector()));
  PLAIT_RETURN_IF_ERROR(gathered.Synchronize());
  std::vector<double> sums(static_cast<size_t>(columns), 0.0);
  for (int64_t j = 0; j < rows; ++j) {
    for (int64_t r = 0; r < ranks.size(); ++r) {
      const double* leaf = all.data<double>() + (r * rows + j) * columns;
      for (int64_t c = 0; c < columns; ++c) sums[c] += leaf[c];
    }
  }
  return sums;
}

}  // namespace plait
