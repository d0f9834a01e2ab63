// Times every implementation of an operation on one set of arguments.
#pragma once

#include <functional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "base/execution.h"
#include "base/status_macros.h"
#include "kernels/benchmark.h"
#include "kernels/implementation.h"
#include "tools/kernel_limits.h"

namespace plait {

struct KernelTiming {
  std::string operation;       // "selective_scan_forward"
  std::string shape;           // "4096 tokens, 512 channels, 16 states, bf16"
  std::string implementation;  // as its table names it
  std::string refusal;         // why it was not run; empty where it was
  double seconds = 0;          // least of several runs
  KernelWork work;             // of one run
};

class KernelTimer {
 public:
  // seconds_per_kernel: time spent on each, at least three runs. References are slow by design and
  // left out unless asked for, as are implementations for other devices.
  KernelTimer(Execution& execution, double seconds_per_kernel, bool with_reference)
      : execution_(execution),
        seconds_per_kernel_(seconds_per_kernel),
        with_reference_(with_reference) {}

  template <class Args>
  absl::Status Time(const std::string& operation, const std::string& shape, const KernelWork& work,
                    std::span<const Implementation<Args>> implementations, const Args& args) {
    for (const Implementation<Args>& implementation : implementations) {
      KernelTiming timing{operation, shape, std::string(implementation.name), "", 0, work};
      if (implementation.device != execution_.device().kind) continue;
      if (!with_reference_ && timing.implementation.find("reference") != std::string::npos)
        continue;
      timing.refusal = implementation.accepts(args);
      if (timing.refusal.empty()) {
        PLAIT_ASSIGN_OR_RETURN(timing.seconds, LeastSeconds(execution_, seconds_per_kernel_, [&] {
                                 return implementation.run(execution_, args);
                               }));
      }
      timings_.push_back(std::move(timing));
    }
    return absl::OkStatus();
  }

  // Several operations, one after the other, each by the implementation that it chooses.
  absl::Status TimeTogether(const std::string& operation, const std::string& shape,
                            const KernelWork& work, const std::function<absl::Status()>& run) {
    KernelTiming timing{operation, shape, "chosen", "", 0, work};
    PLAIT_ASSIGN_OR_RETURN(timing.seconds, LeastSeconds(execution_, seconds_per_kernel_, run));
    timings_.push_back(std::move(timing));
    return absl::OkStatus();
  }

  Execution& execution() { return execution_; }
  const std::vector<KernelTiming>& timings() const { return timings_; }

 private:
  Execution& execution_;
  double seconds_per_kernel_;
  bool with_reference_;
  std::vector<KernelTiming> timings_;
};

}  // namespace plait
