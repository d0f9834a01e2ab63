// Memory that the CPU's kernels take. Where a size depends on the instruction set, that of the
// widest. Not counted: counts of the expert permutation, some KiB.
#pragma once

#include "kernels/scratch.h"

namespace plait::cpu {

class Scratch final : public KernelScratch {
 public:
  explicit Scratch(int threads) : threads_(threads) {}

  Blocks Matmul(const MatmulScratchShape& shape) const override;
  Blocks GroupedMatmul(const GroupedScratchShape& shape) const override;
  Blocks GroupedWeightGradient(const GroupedScratchShape& shape) const override;
  Blocks AttentionForward(const AttentionScratchShape& shape) const override;
  Blocks AttentionBackward(const AttentionScratchShape& shape) const override;
  Blocks SelectiveScanForward(const ScanScratchShape& shape) const override;
  Blocks SelectiveScanBackward(const ScanScratchShape& shape) const override;
  Blocks CausalConvolutionBackward(DType, int64_t, int64_t, int64_t) const override { return {}; }
  Blocks RmsNormBackward(DType, int64_t, int64_t) const override { return {}; }
  Blocks ColumnSum(DType, int64_t, int64_t) const override { return {}; }
  Blocks EmbeddingBackward(int64_t, int64_t) const override { return {}; }
  Blocks ExpertPermutation(int64_t, int64_t) const override { return {}; }

 private:
  const int threads_;
};

}  // namespace plait::cpu
