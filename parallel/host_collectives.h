// Collectives in host memory that the caller waits for, of a little: counts, flags, reports.
#pragma once

#include <functional>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/tensor.h"
#include "parallel/communicator.h"

namespace plait {

// Collective. Every rank's `own`, of one dtype and size on all: [ranks, elements of own].
absl::StatusOr<Tensor> GatherOnHost(
    Communicator& ranks, const Tensor& own,
    Communicator::CallSite site = Communicator::CallSite::current());

// Collective. take(rank, bytes) of every rank's bytes, of any lengths, by rank; one rank's are in
// memory at a time. A failure of take comes back when all are through.
absl::Status ExchangeBytesOnHost(
    Communicator& ranks, const std::string& own,
    const std::function<absl::Status(int rank, std::string_view bytes)>& take,
    Communicator::CallSite site = Communicator::CallSite::current());

// Collective. In place, as Communicator::AllReduce, and done on return.
absl::Status AllReduceOnHost(Communicator& ranks, VectorView values, ReduceOperation operation,
                             Communicator::CallSite site = Communicator::CallSite::current());

}  // namespace plait
