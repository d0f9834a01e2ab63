#include "tools/ranks.h"

#include <exception>
#include <new>
#include <string>
#include <string_view>

#include "absl/strings/str_cat.h"
#include "base/exit_code.h"
#include "base/log.h"
#include "base/status_macros.h"
#include "parallel/mpi_communicator.h"
#include "parallel/status_agreement.h"

namespace plait {
namespace {

// An exception must not unwind past the world: it would end MPI while other ranks wait for this
// one.
absl::Status WithoutExceptions(
    const std::function<absl::Status(const std::shared_ptr<Communicator>&)>& body,
    const std::shared_ptr<Communicator>& world) {
  try {
    return body(world);
  } catch (const std::bad_alloc&) {
    return absl::ResourceExhaustedError("out of memory");
  } catch (const std::exception& error) {
    return absl::InternalError(absl::StrCat("unexpected: ", error.what()));
  }
}

}  // namespace

absl::Status RunOnRanks(
    const std::function<absl::Status(const std::shared_ptr<Communicator>&)>& body) {
  PLAIT_ASSIGN_OR_RETURN(const std::shared_ptr<Communicator> world, MakeWorld());
  SetLogRank(world->rank());
  const absl::Status status = WithoutExceptions(body, world);
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
