#include "parallel/named_state.h"

#include "base/check.h"
#include "base/status_macros.h"

namespace plait {

absl::StatusOr<NamedState> OnHost(Execution& execution, const NamedState& state) {
  NamedState host = state;
  for (NamedTensor& tensor : host.tensors) {
    PLAIT_ASSIGN_OR_RETURN(tensor.shard, execution.ToHost(tensor.shard));
  }
  return host;
}

absl::Status CopyFromHost(Execution& execution, const NamedState& host, NamedState& state) {
  PLAIT_CHECK_EQ(host.tensors.size(), state.tensors.size());
  for (size_t i = 0; i < state.tensors.size(); ++i) {
    Tensor& to = state.tensors[i].shard;
    if (!to.on_device()) continue;
    PLAIT_RETURN_IF_ERROR(execution.Copy(host.tensors[i].shard, to));
  }
  return execution.compute().Synchronize();
}

}  // namespace plait
