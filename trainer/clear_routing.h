// Microbatches whose tokens choose the same experts at bf16 on every layout. Of some hundred tokens
// a few are always near a choice that roundings may turn, whatever the weights; so those tokens are
// replaced by others. A token is clear where, in every expert layer,
//   gap >= 4 x error + 0.01
//   gap:   the smallest probability of a chosen expert less that of the best one not chosen, at f64
//   error: the largest difference of a probability at bf16 on one rank
// Two probabilities approach each other by at most twice what one of them errs, and a layout's
// error may be twice one rank's. 0.01, where the measured error happens to be small: one rounding
// of the router's input moves a logit by about 2^-9 of its size, which is about 1.5, and the
// difference of two probabilities by at most 0.5 x sqrt(2) x that = 0.002; five times as much.
#pragma once

#include <cstdint>
#include <limits>
#include <vector>

#include "absl/status/statusor.h"
#include "base/execution.h"
#include "data/batch.h"
#include "trainer/model_runtime.h"

namespace plait {

// In all expert layers of a model, of one microbatch.
struct MicrobatchRouting {
  std::vector<std::vector<double>> gaps;           // [layers][tokens]; infinite for padding
  std::vector<std::vector<double>> probabilities;  // [layers][tokens x experts]

  // The smallest; infinite without expert layers.
  double gap() const;
};

// model: on one rank, recomputing its blocks (so that it keeps the routings).
absl::StatusOr<MicrobatchRouting> Route(Execution& execution, ModelRuntime& model,
                                        const Batch& batch);

// The microbatch with other tokens where one is not clear. What a token sees is before it: the
// first unclear one of each document is replaced until there is none. exact, rounded: the same
// weights at f64 and bf16, models as above. FailedPrecondition where no token of the vocabulary is
// clear in some place.
absl::StatusOr<Batch> WithClearRouting(Execution& execution, ModelRuntime& exact,
                                       ModelRuntime& rounded, const Batch& batch);

}  // namespace plait
