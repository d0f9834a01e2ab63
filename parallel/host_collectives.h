// Collectives of a few numbers in host memory that the caller waits for: counts, flags, reports.
#pragma once

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/tensor.h"
#include "parallel/communicator.h"

namespace plait {

// Collective. Every rank's `own`, of one dtype and size on all: [ranks, elements of own].
absl::StatusOr<Tensor> GatherOnHost(
    Communicator& ranks, const Tensor& own,
    Communicator::CallSite site = Communicator::CallSite::current());

// Collective. In place, as Communicator::AllReduce, and done on return.
absl::Status AllReduceOnHost(Communicator& ranks, VectorView values, ReduceOperation operation,
                             Communicator::CallSite site = Communicator::CallSite::current());

}  // namespace plait
