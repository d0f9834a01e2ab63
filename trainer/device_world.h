// What the ranks of a run talk with: the host's communicator, and beside it NCCL where each has a
// GPU.
#pragma once

#include <memory>

#include "absl/status/statusor.h"
#include "base/execution.h"
#include "parallel/communicator.h"

namespace plait {

namespace recipe::v1 {
class Recipe;
}

// Collective. `host` itself on the CPU, where it is one rank, and where it reaches the device's
// memory already. Otherwise a communicator of the same ranks that does, by NCCL; an error that
// NCCL reports beside any call ends the process with exit code 75. FailedPrecondition where NCCL
// cannot be loaded, DeadlineExceeded where it does not connect within five minutes, or
// trainer.collective_timeout_seconds where that is longer.
absl::StatusOr<std::shared_ptr<Communicator>> DeviceWorld(Execution& execution,
                                                          const recipe::v1::Recipe& recipe,
                                                          std::shared_ptr<Communicator> host);

}  // namespace plait
