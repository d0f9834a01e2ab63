// Ranks as threads of one process: the parallel logic without a launcher, for tests and for looking
// at a problem in a debugger. Collectives meet at a barrier and read each other's buffers.
#pragma once

#include <functional>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "parallel/communicator.h"

namespace plait {

// The world's communicator of each rank; every one is to be used by a thread of its own. Abort on
// one makes every waiting and later call of all of them fail with Aborted.
std::vector<std::shared_ptr<Communicator>> MakeLocalCommunicators(int ranks);

// Runs `body` on `ranks` threads. A rank that fails aborts the others. Returns the failure of the
// rank that failed first, with its rank; Ok where all went well.
absl::Status RunLocalRanks(
    int ranks, const std::function<absl::Status(const std::shared_ptr<Communicator>&)>& body);

}  // namespace plait
