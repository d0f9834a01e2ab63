#include "parallel/host_share.h"

#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <set>
#include <string>

#include "base/status_macros.h"
#include "base/tensor.h"
#include "parallel/host_collectives.h"

namespace plait {
namespace {

constexpr int64_t kNameBytes = 64;
constexpr int64_t kMaskBytes = sizeof(cpu_set_t);
static_assert(kMaskBytes % 8 == 0);

}  // namespace

absl::StatusOr<HostShare> ShareOfHost(Communicator& world) {
  constexpr int64_t kWords = (kNameBytes + kMaskBytes) / 8;
  Tensor own = Tensor::OnHost(DType::kI64, {kWords});
  char* bytes = static_cast<char*>(own.raw());
  gethostname(bytes, kNameBytes - 1);
  cpu_set_t cores;
  CPU_ZERO(&cores);
  if (sched_getaffinity(0, sizeof(cores), &cores) != 0) CPU_SET(0, &cores);
  std::memcpy(bytes + kNameBytes, &cores, kMaskBytes);
  PLAIT_ASSIGN_OR_RETURN(const Tensor all, GatherOnHost(world, own));

  HostShare share;
  share.ranks_on_host = 0;
  std::set<std::string> names;
  std::array<int, CPU_SETSIZE> users{};
  for (int rank = 0; rank < world.size(); ++rank) {
    const char* other = static_cast<const char*>(all.raw()) + rank * (kNameBytes + kMaskBytes);
    names.insert(other);
    if (std::strncmp(other, bytes, kNameBytes) != 0) continue;
    if (rank < world.rank()) ++share.rank_on_host;
    ++share.ranks_on_host;
    cpu_set_t mask;
    std::memcpy(&mask, other + kNameBytes, kMaskBytes);
    for (int core = 0; core < CPU_SETSIZE; ++core) users[core] += CPU_ISSET(core, &mask) ? 1 : 0;
  }
  share.hosts = static_cast<int>(names.size());
  share.fair_cores = 0;
  for (int core = 0; core < CPU_SETSIZE; ++core) {
    if (CPU_ISSET(core, &cores)) share.fair_cores += 1.0 / std::max(1, users[core]);
  }
  share.fair_threads = std::max(1, static_cast<int>(share.fair_cores + 1e-9));
  return share;
}

}  // namespace plait
