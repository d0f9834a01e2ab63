// A GPU's memory for a run: taken at once, as much as the run's plan says and a sixteenth for gaps
// between blocks, so that no step asks the device for memory and the mark that blocks reach is
// known.
#pragma once

#include "absl/status/status.h"
#include "base/execution.h"

namespace plait {

namespace recipe::v1 {
class Recipe;
}

// Before the model is made. On the CPU, and where memory is reserved already, nothing happens.
// Where the device has not so much, a warning says so, and blocks are taken one by one.
absl::Status ReserveDeviceMemory(Execution& execution, const recipe::v1::Recipe& recipe, int ranks);

}  // namespace plait
