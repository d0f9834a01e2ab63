#include "tools/ranks.h"

#include <string>
#include <string_view>

#include "base/exit_code.h"
#include "base/log.h"
#include "base/status_macros.h"
#include "parallel/mpi_communicator.h"
#include "parallel/status_agreement.h"

namespace plait {

absl::Status RunOnRanks(
    const std::function<absl::Status(const std::shared_ptr<Communicator>&)>& body) {
  PLAIT_ASSIGN_OR_RETURN(const std::shared_ptr<Communicator> world, MakeWorld());
  SetLogRank(world->rank());
  const absl::Status status = body(world);
  if (status.ok()) return status;
  // What all ranks agree on, the first one says.
  if (world->rank() == 0 || !IsAgreed(status))
    LogFailure(std::string_view(status.message().data(), status.message().size()));
  if (world->size() == 1) return status;
  const ExitCode code = ExitCodeOf(status);
  if (!IsAgreed(status)) world->Abort(std::string(status.message()), static_cast<int>(code));
  return world->rank() == 0 ? status : WithExitCode(absl::Status(status.code(), ""), code);
}

}  // namespace plait
