// A GPU beside the CPU: the same training steps of one recipe, from equal weights, on both at bf16
// and on the CPU at f32. The steps' tokens are made up, and the same in every step, so that the
// loss falls far within a few dozen steps and shows what a gradient lacks.
//
// How far the losses may be apart: with l(s) the loss of step s, what bf16 costs the CPU is
//   sigma^2 = mean over steps of (l_cpu(s) - l_f32(s))^2
// A GPU rounds the same numbers in another order: its l_gpu - l_f32 has the same sigma, and is
// independent of the CPU's but for what both round alike, which makes the two nearer. So
//   |l_gpu(s) - l_cpu(s)| <= 5 sqrt(2) sigma
// at each step: five standard deviations of the difference of the two. Errors grow over the steps
// and neighbouring ones are nearly the same, so that the late ones, which are the largest, have
// sigma from few independent samples; their size relative to the mean is within the five.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace plait {

namespace recipe::v1 {
class Recipe;
}

struct DeviceBenchmarkOptions {
  int stage = 0;
  int64_t steps = 50;
};

struct DeviceBenchmarkResult {
  struct Run {
    std::vector<double> losses;
    double median_seconds = 0;  // a step
  };

  // Of three runs of equally many steps, at least one.
  static DeviceBenchmarkResult Compare(Run cpu_f32, Run cpu, Run device);
  // Whether every difference is within the bound; never where a loss is not finite.
  bool Agrees() const;

  std::string device;  // its name
  int threads = 0;     // of the CPU
  int64_t tokens_per_step = 0;
  Run cpu_f32, cpu, on_device;  // the last two at bf16
  double bound = 0;
  double largest_difference = 0;  // of the two at bf16
  int64_t largest_at = 0;         // step, from 0
};

// recipe: resolved and valid; its device and precision do not matter. InvalidArgument for a stage
// that it does not have, or where there is no device.
absl::StatusOr<DeviceBenchmarkResult> BenchmarkDevices(const recipe::v1::Recipe& recipe,
                                                       const DeviceBenchmarkOptions& options);

}  // namespace plait
