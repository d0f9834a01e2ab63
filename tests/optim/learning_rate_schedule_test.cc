#include "optim/learning_rate_schedule.h"

#include <gtest/gtest.h>

#include <cmath>
#include <numbers>

#include "recipes/schema/optim.pb.h"

namespace plait {
namespace {

using recipe::v1::Schedule;

Schedule Make(Schedule::Shape shape, int64_t warmup_steps) {
  Schedule schedule;
  schedule.set_shape(shape);
  schedule.set_learning_rate_start(1e-5);
  schedule.set_learning_rate_peak(3e-3);
  schedule.set_learning_rate_final(7e-4);
  schedule.set_warmup_steps(warmup_steps);
  return schedule;
}

TEST(LearningRateScheduleTest, EndPointsAreExactForEveryShape) {
  for (const Schedule::Shape shape :
       {Schedule::COSINE, Schedule::LINEAR, Schedule::CONSTANT_WITH_DECAY}) {
    for (const int64_t warmup : {0, 1, 7}) {
      Schedule description = Make(shape, warmup);
      if (shape == Schedule::CONSTANT_WITH_DECAY) description.set_decay_steps(13);
      const LearningRateSchedule schedule(description, 101);
      EXPECT_EQ(schedule.At(0), warmup > 0 ? 1e-5 : 3e-3);
      EXPECT_EQ(schedule.At(warmup), 3e-3);
      EXPECT_EQ(schedule.At(100), 7e-4);
    }
  }
}

TEST(LearningRateScheduleTest, WarmupIsLinear) {
  const LearningRateSchedule schedule(Make(Schedule::COSINE, 10), 100);
  for (int step = 0; step < 10; ++step) {
    EXPECT_NEAR(schedule.At(step), 1e-5 + (3e-3 - 1e-5) * step / 10, 1e-18);
  }
}

TEST(LearningRateScheduleTest, CosineFollowsItsFormula) {
  const LearningRateSchedule schedule(Make(Schedule::COSINE, 10), 111);
  EXPECT_NEAR(schedule.At(60), (3e-3 + 7e-4) / 2, 1e-17);  // half-way
  for (int step = 10; step < 111; ++step) {
    const double expected =
        7e-4 + (3e-3 - 7e-4) * (1 + std::cos(std::numbers::pi * (step - 10) / 100)) / 2;
    EXPECT_NEAR(schedule.At(step), expected, 1e-17);
  }
}

TEST(LearningRateScheduleTest, LinearFollowsItsFormula) {
  const LearningRateSchedule schedule(Make(Schedule::LINEAR, 0), 11);
  for (int step = 0; step < 11; ++step) {
    EXPECT_NEAR(schedule.At(step), 3e-3 + (7e-4 - 3e-3) * step / 10, 1e-17);
  }
}

TEST(LearningRateScheduleTest, ConstantDecaysOverItsLastSteps) {
  Schedule description = Make(Schedule::CONSTANT_WITH_DECAY, 5);
  description.set_decay_steps(4);
  const LearningRateSchedule schedule(description, 20);
  for (int step = 5; step < 16; ++step) EXPECT_EQ(schedule.At(step), 3e-3);
  for (int step = 16; step < 20; ++step) {
    EXPECT_NEAR(schedule.At(step), 3e-3 + (7e-4 - 3e-3) * (step - 15) / 4, 1e-17);
  }
}

TEST(LearningRateScheduleTest, AWarmupThatEndsWithTheStageEndsAtThePeak) {
  EXPECT_EQ(LearningRateSchedule(Make(Schedule::COSINE, 9), 10).At(9), 3e-3);
  EXPECT_EQ(LearningRateSchedule(Make(Schedule::LINEAR, 0), 1).At(0), 3e-3);
}

}  // namespace
}  // namespace plait
