// All ranks agree whether every gradient is finite: either all of them step or none does.
#pragma once

#include <span>
#include <string>

#include "absl/status/statusor.h"
#include "optim/gradient_clipping.h"
#include "parallel/communicator.h"
#include "parallel/parameter.h"

namespace plait {

struct FiniteAgreement {
  bool all_finite = true;
  std::string first_parameter;  // the first, in the order of the list, whose gradient is not finite
};

// norm: GlobalGradientNorm of the same parameters, which every rank lists in the same order. An f64
// gradient whose square overflows counts as not finite.
absl::StatusOr<FiniteAgreement> AgreeOnFinite(Communicator& world, const GradientNorm& norm,
                                              std::span<const ShardedParameter> parameters);

}  // namespace plait
