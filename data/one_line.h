// Messages that quote from a file, whatever it holds.
#pragma once

#include "absl/status/status.h"

namespace plait {

// The same status with control characters of its message escaped and a long one cut.
absl::Status OneLine(const absl::Status& status);

}  // namespace plait
