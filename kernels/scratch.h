// Memory that the CPU's kernels take from the allocator while they run, as a list of blocks, for
// plans of a step's memory. Where a size depends on the instruction set, that of the widest.
// GPU kernels are not planned here.
#pragma once

#include <cstdint>
#include <vector>

#include "base/dtype.h"

namespace plait {

// c [m, n] = a [m, k] b, operands and output of these dtypes.
std::vector<int64_t> MatmulScratch(DType operands, DType output, int64_t m, int64_t n, int64_t k,
                                   int threads);

struct AttentionScratchShape {
  int64_t heads = 0, kv_heads = 0, head_dim = 0;
  int64_t documents = 0, document_tokens = 0;  // of equal length
};
std::vector<int64_t> AttentionForwardScratch(const AttentionScratchShape& shape, int threads);
std::vector<int64_t> AttentionBackwardScratch(const AttentionScratchShape& shape, int threads);

std::vector<int64_t> SelectiveScanForwardScratch(int64_t channels, int64_t states, int threads);
std::vector<int64_t> SelectiveScanBackwardScratch(int64_t channels, int64_t states, int threads);

}  // namespace plait
