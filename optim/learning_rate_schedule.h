// Learning rate over the steps of one stage, a pure function of the step (0 ... steps - 1):
//   warm-up   step < warmup: start + (peak - start) step / warmup; the peak is reached at step =
//   warmup then, with p = (step - warmup) / (steps - 1 - warmup), so that the last step has p = 1:
//   COSINE    final + (peak - final) (1 + cos(pi p)) / 2
//   LINEAR    peak + (final - peak) p
//   CONSTANT_WITH_DECAY   peak, then linear over the last decay_steps steps: the last one has
//   `final`
// Start, peak and final are reached exactly. A stage whose warm-up ends with its last step ends at
// the peak.
#pragma once

#include <cstdint>

namespace plait {

namespace recipe::v1 {
class Schedule;
}

class LearningRateSchedule {
 public:
  // schedule: of a validated and resolved recipe. steps: of its stage, at least 1.
  LearningRateSchedule(const recipe::v1::Schedule& schedule, int64_t steps);

  // step: in [0, steps).
  double At(int64_t step) const;

 private:
  enum class Shape { kCosine, kLinear, kConstantWithDecay };

  Shape shape_;
  double start_;
  double peak_;
  double final_;
  int64_t steps_;
  int64_t warmup_steps_;
  int64_t decay_steps_;
};

}  // namespace plait
