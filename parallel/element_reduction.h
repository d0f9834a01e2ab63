// The arithmetic of reductions, on one rank: sources are combined in their order, bf16 in f32 with
// one rounding at the end. Threads divide the elements: their number changes no bit.
#pragma once

#include <cstdint>
#include <span>

#include "absl/status/status.h"
#include "base/execution.h"
#include "base/view.h"
#include "parallel/communicator.h"

namespace plait {

// output[i] = sources[0][i] (+ or max) sources[1][i] ...; the output may be one of the sources.
// bf16, f32, f64, i32 and i64.
void ReduceElements(ReduceOperation operation, DType dtype, std::span<const void* const> sources,
                    int64_t elements, void* output);

// The following work on the memory of the execution's device, in the order of its compute stream.

// total[i] += sources[0][i] + sources[1][i] + ..., the sum of the sources first. Sources are bf16
// or of total's dtype (f32 or f64); round_to_bf16: f32 sources are rounded so before they are
// added. On a device the sources are equally far apart.
absl::Status AccumulateElements(Execution& execution, DType dtype,
                                std::span<const void* const> sources, bool round_to_bf16,
                                VectorView total);

// out = a + b, all of one dtype, f32 or f64; out may be a or b.
absl::Status AddElements(Execution& execution, ConstVectorView a, ConstVectorView b,
                         VectorView out);
// bf16 -> f32, f32 -> bf16 (to nearest even), or a copy.
absl::Status ConvertElements(Execution& execution, ConstVectorView from, VectorView to);

}  // namespace plait
