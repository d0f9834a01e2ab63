// Times every implementation of an operation on one set of arguments.
#pragma once

#include <algorithm>
#include <chrono>
#include <span>
#include <string>
#include <vector>

#include "base/execution.h"
#include "base/status_macros.h"
#include "kernels/implementation.h"

namespace plait {

struct KernelTiming {
  std::string operation;       // "selective_scan_forward"
  std::string shape;           // "4096 tokens, 512 channels, 16 states, bf16"
  std::string implementation;  // as its table names it
  std::string refusal;         // why it was not run; empty where it was
  double seconds = 0;          // least of several runs
  double flops = 0;            // of one run; 0: bandwidth is what counts
  double bytes = 0;            // that one run reads and writes, each operand once
};

class KernelTimer {
 public:
  // seconds_per_kernel: time spent on each, at least three runs. References are slow by design and
  // left out unless asked for.
  KernelTimer(Execution& execution, double seconds_per_kernel, bool with_reference)
      : execution_(execution),
        seconds_per_kernel_(seconds_per_kernel),
        with_reference_(with_reference) {}

  template <class Args>
  absl::Status Time(const std::string& operation, const std::string& shape, double flops,
                    double bytes, std::span<const Implementation<Args>> implementations,
                    const Args& args) {
    for (const Implementation<Args>& implementation : implementations) {
      KernelTiming timing{operation, shape, std::string(implementation.name), "", 0, flops, bytes};
      if (!with_reference_ && timing.implementation.find("reference") != std::string::npos)
        continue;
      timing.refusal = implementation.device == execution_.device().kind
                           ? implementation.accepts(args)
                           : std::string("runs on another device");
      if (timing.refusal.empty()) {
        PLAIT_ASSIGN_OR_RETURN(timing.seconds, Least(implementation, args));
      }
      timings_.push_back(std::move(timing));
    }
    return absl::OkStatus();
  }

  Execution& execution() { return execution_; }
  const std::vector<KernelTiming>& timings() const { return timings_; }

 private:
  using Clock = std::chrono::steady_clock;

  template <class Args>
  absl::StatusOr<double> Least(const Implementation<Args>& implementation, const Args& args) {
    constexpr int kLeastRuns = 3;
    PLAIT_RETURN_IF_ERROR(implementation.run(execution_, args));  // caches and pages
    double least = 0, sum = 0;
    for (int run = 0; run < kLeastRuns || sum < seconds_per_kernel_; ++run) {
      const Clock::time_point start = Clock::now();
      PLAIT_RETURN_IF_ERROR(implementation.run(execution_, args));
      const double seconds = std::chrono::duration<double>(Clock::now() - start).count();
      least = run == 0 ? seconds : std::min(least, seconds);
      sum += seconds;
    }
    return least;
  }

  Execution& execution_;
  double seconds_per_kernel_;
  bool with_reference_;
  std::vector<KernelTiming> timings_;
};

// Every operation of a hybrid model on the demo recipe's shapes, forward and backward.
absl::Status TimeKernels(KernelTimer& timer, int64_t tokens);

}  // namespace plait
