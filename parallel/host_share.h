// Where the ranks of a run are, and how many threads each should start: ranks that may run on the
// same cores divide them.
#pragma once

#include "absl/status/statusor.h"
#include "parallel/communicator.h"

namespace plait {

struct HostShare {
  int hosts = 1;
  int ranks_on_host = 1;
  int rank_on_host = 0;
  // Cores that this process may use, each divided by the ranks of the host that may use it too.
  double fair_cores = 1;
  // Whole ones of them; at least 1.
  int fair_threads = 1;
};

// Collective.
absl::StatusOr<HostShare> ShareOfHost(Communicator& world);

}  // namespace plait
