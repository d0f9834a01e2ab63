// Times every implementation of an operation on one set of arguments.
#pragma once

#include <algorithm>
#include <span>
#include <string>
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

  Execution& execution() { return execution_; }
  const std::vector<KernelTiming>& timings() const { return timings_; }

 private:
  Execution& execution_;
  double seconds_per_kernel_;
  bool with_reference_;
  std::vector<KernelTiming> timings_;
};

// Shapes of a model's kernels.
struct KernelSizes {
  int64_t tokens = 4096;  // of a microbatch
  int64_t model_dim = 256, hidden_dim = 448;
  int64_t channels = 512, states = 16;
  int64_t heads = 4, kv_heads = 2, head_dim = 64;
  int64_t experts = 4, experts_per_token = 2;
  int64_t vocabulary = 8192, vocabulary_rows = 512;
  int64_t document_tokens = 512;
  int64_t optimizer_elements = 1 << 21;

  // Of the demo's recipe, for a CPU.
  static KernelSizes OfDemo() { return {}; }
  // Of Jamba 1.5 Large with four experts, on documents of 8192 tokens: for a device with 80 GB.
  static KernelSizes OfJambaLarge() {
    return {.tokens = 8192,
            .model_dim = 8192,
            .hidden_dim = 24576,
            .channels = 16384,
            .heads = 64,
            .kv_heads = 8,
            .head_dim = 128,
            .vocabulary = 65536,
            .vocabulary_rows = 2048,
            .document_tokens = 8192,
            .optimizer_elements = 1 << 28};
  }
};

// Every operation of a hybrid model, forward and backward.
absl::Status TimeKernels(KernelTimer& timer, const KernelSizes& sizes);

}  // namespace plait
