#include "model/tensor_parallel.h"

#include "base/status_macros.h"

namespace plait {

absl::StatusOr<Tensor> TensorParallel::Gather(Execution& execution, const Tensor& rows) const {
  if (size() == 1) return rows;
  Tensor all = execution.Empty(rows.dtype(), {rows.shape()[0] * size(), rows.shape()[1]});
  PLAIT_ASSIGN_OR_RETURN(
      const Event gathered,
      ranks_->AllGather(execution.communication_after_compute(), rows.vector(), all.vector()));
  PLAIT_RETURN_IF_ERROR(execution.compute().Wait(gathered));
  return all;
}

absl::StatusOr<Tensor> TensorParallel::ReduceScatter(Execution& execution,
                                                     const Tensor& partial) const {
  if (size() == 1) return partial;
  Tensor own = execution.Empty(partial.dtype(), {Share(partial.shape()[0]), partial.shape()[1]});
  PLAIT_ASSIGN_OR_RETURN(const Event reduced,
                         ranks_->ReduceScatter(execution.communication_after_compute(),
                                               partial.vector(), own.vector()));
  PLAIT_RETURN_IF_ERROR(execution.compute().Wait(reduced));
  return own;
}

absl::Status TensorParallel::AllReduce(Execution& execution, Tensor& partial) const {
  if (size() == 1) return absl::OkStatus();
  PLAIT_ASSIGN_OR_RETURN(const Event reduced,
                         ranks_->AllReduce(execution.communication_after_compute(),
                                           partial.vector(), ReduceOperation::kSum));
  return execution.compute().Wait(reduced);
}

}  // namespace plait
