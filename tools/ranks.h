// Commands that run on several ranks under a launcher, on one without.
#pragma once

#include <functional>
#include <memory>

#include "absl/status/status.h"
#include "parallel/communicator.h"

namespace plait {

// Starts MPI where this process was launched by it, and runs `body`. A failure that all ranks hold
// is told by rank 0 before any rank leaves, and comes back without a message; a failure of this
// rank alone ends the job. One rank's failure comes back with its message.
absl::Status RunOnRanks(
    const std::function<absl::Status(const std::shared_ptr<Communicator>&)>& body);

}  // namespace plait
