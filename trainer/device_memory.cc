#include "trainer/device_memory.h"

#include <algorithm>

#include "absl/strings/str_format.h"
#include "base/log.h"
#include "base/status_macros.h"
#include "kernels/cuda/runtime.h"
#include "recipes/schema/recipe.pb.h"
#include "trainer/plan.h"

namespace plait {

absl::Status ReserveDeviceMemory(Execution& execution, const recipe::v1::Recipe& recipe,
                                 int ranks) {
  if (execution.runtime() == nullptr || execution.allocator().reserved_bytes() > 0) {
    return absl::OkStatus();
  }
  const DeviceLibraries libraries =
      cuda::IsEmulated() ? DeviceLibraries::kEmulated : DeviceLibraries::kPresent;
  PLAIT_ASSIGN_OR_RETURN(const Plan plan,
                         MakePlan(recipe, {.ranks = ranks, .libraries = libraries}));
  int64_t planned = 0;
  for (const StagePlan& stage : plan.stages) planned = std::max(planned, stage.memory.total);
  const auto bytes = static_cast<size_t>(planned + planned / 16);
  const size_t there = execution.runtime()->MemoryBytes();
  if (bytes > there || !execution.allocator().Reserve(bytes)) {
    LogWarning(absl::StrFormat(
        "a rank's plan says %.2f GB, a sixteenth more of the %.2f GB of %s cannot be reserved: "
        "tensors are taken one by one (plait plan lists what takes most)",
        1e-9 * static_cast<double>(planned), 1e-9 * static_cast<double>(there),
        execution.runtime()->DeviceName()));
  }
  return absl::OkStatus();
}

}  // namespace plait
