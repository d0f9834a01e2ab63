// The target of a conversion: what may be replaced, and how it appears.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "absl/status/status.h"
#include "parallel/communicator.h"
#include "tools/conversion.h"

namespace plait {

// Collective. Makes the temporary folder of options.target (rank 0), of which `fill` fills this
// rank's part; `complete` writes the rest (rank 0), and the folder gets its name. The target is
// refused where it exists (AlreadyExists), unless options.replace is set and it is a checkpoint, a
// model folder or empty; and where it holds the source or lies in it. Nothing is left of a failure.
// ResourceExhausted where the disk has not `needed_bytes` free.
absl::Status MakeConversionTarget(
    Communicator& world, const ConversionOptions& options, int64_t needed_bytes,
    const std::function<absl::Status(const std::string& folder)>& fill,
    const std::function<absl::Status(const std::string& folder)>& complete);

}  // namespace plait
