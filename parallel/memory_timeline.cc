#include "parallel/memory_timeline.h"

#include "base/allocator.h"

namespace plait {

std::string_view Name(MemoryClass memory_class) {
  switch (memory_class) {
    case MemoryClass::kComputeWeights:
      return "compute weights";
    case MemoryClass::kMasters:
      return "masters";
    case MemoryClass::kOptimizer:
      return "optimizer state";
    case MemoryClass::kGradients:
      return "gradients";
    case MemoryClass::kGatheredWeights:
      return "gathered weights";
    case MemoryClass::kGradientBuffers:
      return "gradient buffers";
    case MemoryClass::kActivations:
      return "activations";
    case MemoryClass::kWorkspace:
      return "workspace";
    case MemoryClass::kExchange:
      return "expert exchange";
  }
  return "?";
}

MemoryTimeline::Block MemoryTimeline::Allocate(int64_t bytes, MemoryClass memory_class,
                                               Rounding rounding) {
  if (rounding == Rounding::kAllocator) {
    bytes = static_cast<int64_t>(Allocator::RoundedSize(static_cast<size_t>(bytes)));
  }
  int64_t& held = classes_[static_cast<int>(memory_class)];
  held += bytes;
  in_use_ += bytes;
  if (in_use_ > peak_) {
    peak_ = in_use_;
    at_peak_ = classes_;
  }
  // The address names the class; nothing is read through it.
  return Block(&held, [this, &held, bytes](void*) {
    held -= bytes;
    in_use_ -= bytes;
  });
}

void MemoryTimeline::ResetPeak() {
  peak_ = in_use_;
  at_peak_ = classes_;
}

}  // namespace plait
