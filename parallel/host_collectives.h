// Collectives of a few numbers in host memory that the caller waits for: counts, flags, reports.
#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/tensor.h"
#include "parallel/communicator.h"

namespace plait {

// Collective. Every rank's `own`, of one dtype and size on all: [ranks, elements of own].
absl::StatusOr<Tensor> GatherOnHost(
    Communicator& ranks, const Tensor& own,
    Communicator::CallSite site = Communicator::CallSite::current());

// Collective. Every rank's bytes, of any lengths, by rank.
absl::StatusOr<std::vector<std::string>> GatherBytesOnHost(
    Communicator& ranks, const std::string& own,
    Communicator::CallSite site = Communicator::CallSite::current());

// Collective. In place, as Communicator::AllReduce, and done on return.
absl::Status AllReduceOnHost(Communicator& ranks, VectorView values, ReduceOperation operation,
                             Communicator::CallSite site = Communicator::CallSite::current());

}  // namespace plait
