// MemoryTimeline: what an allocator would hold, without the memory. Code that plans plays the
// allocations of the code that runs, in its order and with its lifetimes; the timeline rounds as
// the allocator rounds and keeps the moment at which most was held.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <string_view>

#include "base/dtype.h"

namespace plait {

// What memory is for.
enum class MemoryClass {
  kComputeWeights,   // this rank's shares in the compute dtype, or whole tensors where it has all
  kMasters,          // f32 values beside bf16 ones
  kOptimizer,        // moments
  kGradients,        // of the shares, summed over the step
  kGatheredWeights,  // whole units while they compute
  kGradientBuffers,  // whole units' gradients on their way to their owners
  kActivations,      // what the backward reads
  kWorkspace,        // what lives within a block's forward or backward, and kernels' scratch
  kExchange,         // rows of other ranks' tokens at this rank's experts
};
inline constexpr int kNumMemoryClasses = 9;

// "compute weights"
std::string_view Name(MemoryClass memory_class);

class MemoryTimeline {
 public:
  // Bytes by MemoryClass.
  using Classes = std::array<int64_t, kNumMemoryClasses>;
  // Held until its last owner is gone; the timeline outlives it.
  using Block = std::shared_ptr<void>;

  // Whether sizes are rounded up to the allocator's classes.
  enum class Rounding { kNone, kAllocator };

  Block Allocate(int64_t bytes, MemoryClass memory_class, Rounding rounding = Rounding::kAllocator);
  Block Allocate(DType dtype, int64_t elements, MemoryClass memory_class) {
    return Allocate(elements * static_cast<int64_t>(SizeOf(dtype)), memory_class);
  }

  int64_t in_use() const { return in_use_; }
  int64_t in_use(MemoryClass memory_class) const {
    return classes_[static_cast<int>(memory_class)];
  }
  int64_t peak() const { return peak_; }
  // What was held at the first moment of the peak; adds up to it.
  const Classes& at_peak() const { return at_peak_; }
  // Starts a new peak from what is held now.
  void ResetPeak();

 private:
  int64_t in_use_ = 0;
  int64_t peak_ = 0;
  Classes classes_{};
  Classes at_peak_{};
};

}  // namespace plait
