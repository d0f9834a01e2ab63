// Numbers moved by an index. Formulas and shapes: indexed_numbers_args.h.
#pragma once

#include <span>

#include "absl/status/status.h"
#include "kernels/implementation.h"
#include "kernels/indexed_numbers_args.h"

namespace plait {

absl::Status GatherNumbers(Execution& execution, const GatherNumbersArgs& args);
absl::Status ScatterNumbers(Execution& execution, const ScatterNumbersArgs& args);

std::span<const Implementation<GatherNumbersArgs>> GatherNumbersImplementations();
std::span<const Implementation<ScatterNumbersArgs>> ScatterNumbersImplementations();

}  // namespace plait
