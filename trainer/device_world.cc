#include "trainer/device_world.h"

#include <algorithm>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "kernels/cuda/runtime.h"
#include "parallel/collective_watchdog.h"
#include "parallel/nccl_communicator.h"
#include "parallel/nccl_library.h"
#include "parallel/status_agreement.h"
#include "recipes/schema/recipe.pb.h"

namespace plait {
namespace {

absl::StatusOr<std::shared_ptr<NcclApi>> Library() {
  if (cuda::IsEmulated()) {
    return absl::FailedPreconditionError("NCCL: moves nothing between emulated devices");
  }
  return LoadNccl();
}

}  // namespace

absl::StatusOr<std::shared_ptr<Communicator>> DeviceWorld(Execution& execution,
                                                          const recipe::v1::Recipe& recipe,
                                                          std::shared_ptr<Communicator> host) {
  if (execution.runtime() == nullptr || host->size() == 1 || host->reaches_device()) return host;
  const auto nccl = Library();
  PLAIT_RETURN_IF_ERROR(
      AgreeOnStatus(*host, Annotate(nccl.status(), "recipe trainer.device = CUDA")));
  NcclOptions options;
  if (recipe.parallel().device_sums() == recipe::v1::Parallel::NCCL) {
    options.sums = NcclOptions::Sums::kLibrary;
  }
  options.connect_timeout_seconds =
      std::max(options.connect_timeout_seconds, recipe.trainer().collective_timeout_seconds());
  // The rank's own thread may wait for a rank that is gone, and hear of nothing.
  options.on_error = [](const absl::Status& error) {
    CollectiveWatchdog::EndProcess(std::string(error.message()));
  };
  return MakeNcclCommunicator(*host, execution.runtime(), *nccl, options);
}

}  // namespace plait
