#include "parallel/host_collectives.h"

#include "base/status_macros.h"

namespace plait {

absl::StatusOr<Tensor> GatherOnHost(Communicator& ranks, const Tensor& own,
                                    Communicator::CallSite site) {
  Tensor all = Tensor::OnHost(own.dtype(), {ranks.size(), own.num_elements()});
  Stream stream;
  PLAIT_ASSIGN_OR_RETURN(const Event done,
                         ranks.AllGather(stream, own.vector(), all.vector(), site));
  PLAIT_RETURN_IF_ERROR(done.Synchronize());
  return all;
}

absl::Status AllReduceOnHost(Communicator& ranks, VectorView values, ReduceOperation operation,
                             Communicator::CallSite site) {
  Stream stream;
  PLAIT_ASSIGN_OR_RETURN(const Event done, ranks.AllReduce(stream, values, operation, site));
  return done.Synchronize();
}

}  // namespace plait
