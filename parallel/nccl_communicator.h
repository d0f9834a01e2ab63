// Communicator of ranks with a GPU each: device memory moves by NCCL, everything else by a host
// communicator beside it (docs/decisions/0005-nccl.md). The stream says which: buffers of calls on
// a device's stream are device memory; on the host's inline stream (AllReduceOnHost, GatherOnHost)
// they are host memory, and so are shared memory, barriers and the comparison of calls.
//
// Calls on a device's stream return when the work has been given to it; the host waits only where
// NCCL connects on first use. The caller orders streams: what a collective reads must have been
// waited for by its stream. All collectives of a rank belong on one stream: kernels of different
// communicators that run side by side may wait for each other in a circle. A send ends with its
// receive. Split takes colors from 0.
#pragma once

#include <functional>
#include <memory>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/device_runtime.h"
#include "parallel/communicator.h"
#include "parallel/nccl_api.h"

namespace plait {

struct NcclOptions {
  enum class Sums {
    // In rank order, one rounding: the bits of every other communicator.
    kRankOrder,
    // f32 and f64 by NCCL's own collectives: fewer bytes between hosts. Their order depends on
    // algorithm and topology; on one machine they repeat themselves with NCCL_ALGO=Ring,
    // NCCL_PROTO=Simple and NCCL_NVLS_ENABLE=0 in the environment.
    kLibrary,
  };
  Sums sums = Sums::kRankOrder;
  // Device memory for sums in rank order; larger ones are made in rounds.
  int64_t scratch_bytes = int64_t{256} << 20;
  double connect_timeout_seconds = 300;
  double close_timeout_seconds = 5;
  // Called once, on a thread of the communicator's, when NCCL reports an error beside any call,
  // after everything has been aborted: this rank's own thread may wait for a rank that is gone. A
  // run ends its process here (CollectiveWatchdog::EndProcess).
  std::function<void(const absl::Status&)> on_error;
};

// Collective over `host`, whose ranks each have the calling thread's current device (`runtime`).
// The communicator goes on under the host's name; `host` may be used as before. On every rank, the
// error of the lowest rank that has one: DeadlineExceeded where NCCL does not connect in time.
// After a failure or Abort every call fails with the reason, and ranks whose host communicator
// still works may make another communicator.
absl::StatusOr<std::shared_ptr<Communicator>> MakeNcclCommunicator(
    Communicator& host, std::shared_ptr<DeviceRuntime> runtime, std::shared_ptr<NcclApi> nccl,
    const NcclOptions& options = {});

}  // namespace plait
