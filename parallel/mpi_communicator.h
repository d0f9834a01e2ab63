// Ranks as processes under MPI. MPI carries control, collectives of host memory, and start-up;
// ranks of one host share memory without it. This is the only folder's file that knows MPI
// (mpi_communicator.cc).
#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "parallel/communicator.h"

namespace plait {

// Whether a launcher (mpirun, srun --mpi=pmix) started this process: its variables are in the
// environment.
bool LaunchedByMpi();

// Initialises MPI and returns the communicator of all ranks. Once a process; MPI is finalised with
// the last communicator that came from it. Unavailable where MPI cannot start.
absl::StatusOr<std::shared_ptr<Communicator>> MakeMpiWorld();

// What this process was started for: MakeMpiWorld under a launcher, else a single rank.
absl::StatusOr<std::shared_ptr<Communicator>> MakeWorld();

// Of the linked MPI, whether it runs or not: "Open MPI v4.1.4".
std::string MpiLibraryVersion();

}  // namespace plait
