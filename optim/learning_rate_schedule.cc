#include "optim/learning_rate_schedule.h"

#include <cmath>
#include <numbers>

#include "base/check.h"
#include "recipes/schema/optim.pb.h"

namespace plait {

using recipe::v1::Schedule;

LearningRateSchedule::LearningRateSchedule(const Schedule& schedule, int64_t steps)
    : shape_(schedule.shape() == Schedule::LINEAR                ? Shape::kLinear
             : schedule.shape() == Schedule::CONSTANT_WITH_DECAY ? Shape::kConstantWithDecay
                                                                 : Shape::kCosine),
      start_(schedule.learning_rate_start()),
      peak_(schedule.learning_rate_peak()),
      final_(schedule.learning_rate_final()),
      steps_(steps),
      warmup_steps_(schedule.warmup_steps()),
      decay_steps_(schedule.decay_steps()) {
  PLAIT_CHECK(steps >= 1 && warmup_steps_ >= 0 && warmup_steps_ < steps);
}

double LearningRateSchedule::At(int64_t step) const {
  PLAIT_CHECK(step >= 0 && step < steps_);
  const auto ratio = [](int64_t part, int64_t whole) {
    return static_cast<double>(part) / static_cast<double>(whole);
  };
  // std::lerp is exact at 0 and 1.
  if (step < warmup_steps_) return std::lerp(start_, peak_, ratio(step, warmup_steps_));
  if (shape_ == Shape::kConstantWithDecay) {
    const int64_t decayed = step - (steps_ - decay_steps_) + 1;
    return decayed <= 0 ? peak_ : std::lerp(peak_, final_, ratio(decayed, decay_steps_));
  }
  const int64_t span = steps_ - 1 - warmup_steps_;
  if (span == 0) return peak_;
  const double progress = ratio(step - warmup_steps_, span);
  if (shape_ == Shape::kLinear) return std::lerp(peak_, final_, progress);
  return std::lerp(final_, peak_, 0.5 * (1.0 + std::cos(std::numbers::pi * progress)));
}

}  // namespace plait
