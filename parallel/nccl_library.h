// NCCL itself, loaded when it is first asked for: plait starts on machines without it.
#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "parallel/nccl_api.h"

namespace plait {

// libnccl.so.2, found as the system's loader finds libraries (LD_LIBRARY_PATH, the program's rpath,
// ldconfig's folders). FailedPrecondition, with the reason, where it cannot be loaded, is older
// than the nccl.h that plait was built with, or plait was built without.
absl::StatusOr<std::shared_ptr<NcclApi>> LoadNccl(const std::string& file = "libnccl.so.2");

}  // namespace plait
