// Sampler: the next token from logits. Temperature, then the top_k largest, then the smallest set
// of largest probabilities whose sum reaches top_p; one of these is drawn. Temperature 0 is greedy:
// the largest, ties to the lower id. The draw depends on (seed, position) alone.
#pragma once

#include <cstdint>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/tensor.h"

namespace plait {

struct SamplerOptions {
  double temperature = 1.0;
  int64_t top_k = 0;   // 0: all
  double top_p = 1.0;  // 1: all
  uint64_t seed = 1;
};

// InvalidArgument, naming the option: temperature >= 0, top_k >= 0, 0 < top_p <= 1.
absl::Status ValidateSamplerOptions(const SamplerOptions& options);

// logits: f32 or f64 [vocabulary]. position: of the token to be drawn. Where a logit is not finite,
// DataLoss with the exit code of a numeric fault.
absl::StatusOr<int32_t> SampleToken(const Tensor& logits, const SamplerOptions& options,
                                    int64_t position);

}  // namespace plait
