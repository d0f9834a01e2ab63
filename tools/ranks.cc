#include "tools/ranks.h"

#include <unistd.h>

#include <cstdio>
#include <exception>
#include <new>
#include <string>

#include "absl/strings/str_cat.h"
#include "base/exit_code.h"
#include "base/log.h"
#include "base/status_macros.h"
#include "parallel/collective_watchdog.h"
#include "parallel/mpi_communicator.h"
#include "parallel/status_agreement.h"
#include "tools/plait.h"

namespace plait {
namespace {

// That the ranks of a job that has failed wait for each other.
constexpr double kLongestEndSeconds = 10;

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
  const std::string message(status.message().data(), status.message().size());
  // What all ranks agree on, the first one says.
  if (world->rank() == 0 || !IsAgreed(status)) LogFailure(message);
  if (world->size() == 1) return status;
  const ExitCode code = ExitCodeOf(status);
  if (!IsAgreed(status)) world->Abort(message, static_cast<int>(code));
  // The launcher kills the others when the first rank leaves with this code: by then all is said.
  if (world->rank() == 0 && !message.empty()) PrintError(message);
  std::fflush(stdout);
  // A rank that hangs in what it closes keeps nobody.
  const CollectiveWatchdog watchdog(world->ledger(), kLongestEndSeconds,
                                    [code](const std::string&) { _exit(static_cast<int>(code)); });
  world->Barrier().IgnoreError();
  return WithExitCode(absl::Status(status.code(), ""), code);
}

}  // namespace plait
