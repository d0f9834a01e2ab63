#include "optim/finite_agreement.h"

#include "base/check.h"
#include "base/status_macros.h"
#include "parallel/host_collectives.h"

namespace plait {

absl::StatusOr<FiniteAgreement> AgreeOnFinite(Communicator& world, const GradientNorm& norm,
                                              std::span<const ShardedParameter> parameters) {
  const int64_t count = static_cast<int64_t>(parameters.size());
  // The number of parameters from the first offending one on: 0 for none, and the maximum over
  // ranks belongs to the earliest.
  int64_t remaining = count - static_cast<int64_t>(norm.first_not_finite);
  PLAIT_CHECK(remaining >= 0);
  PLAIT_RETURN_IF_ERROR(
      AllReduceOnHost(world, {&remaining, DType::kI64, 1}, ReduceOperation::kMax));
  if (remaining == 0) return FiniteAgreement();
  return FiniteAgreement{.all_finite = false,
                         .first_parameter = parameters[count - remaining].name};
}

}  // namespace plait
