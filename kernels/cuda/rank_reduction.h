// What the ranks of a communicator hold, reduced element by element in the order of the ranks:
//   output[i] = source 0 [i] (+ or max) source 1 [i] ...
// bf16 in f32 with one rounding at the end; integer sums wrap around. The same bits as
// parallel/element_reduction.h's.
#pragma once

#include <cstdint>

#include "absl/status/status.h"
#include "base/device_runtime.h"
#include "base/dtype.h"

namespace plait::cuda {

enum class RankReduction { kSum, kMax };

struct RankReductionArgs {
  RankReduction reduction = RankReduction::kSum;
  DType dtype = DType::kF32;
  // Device memory: rank r's elements begin r x stride elements after it; those of `own_rank` are at
  // `own` instead, unless that is null.
  const void* gathered = nullptr;
  int64_t stride = 0;
  const void* own = nullptr;
  int own_rank = 0;
  int ranks = 1;
  int64_t elements = 0;
  // May be `own` or rank r's place.
  void* output = nullptr;
};

// bf16, f32, f64, i32 and i64; on the device that is the calling thread's.
absl::Status ReduceRanks(StreamHandle stream, const RankReductionArgs& args);

}  // namespace plait::cuda
