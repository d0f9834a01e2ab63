// Matrix product. Formulas and shapes: matmul_args.h.
#pragma once

#include <span>

#include "absl/status/status.h"
#include "kernels/implementation.h"
#include "kernels/matmul_args.h"

namespace plait {

absl::Status Matmul(Execution& execution, const MatmulArgs& args);

std::span<const Implementation<MatmulArgs>> MatmulImplementations();

}  // namespace plait
