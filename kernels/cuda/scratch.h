// Memory that a CUDA device's kernels take, as their headers say it. For libraries that the
// emulation does not have, what plait asks for them: cuBLASLt's workspace, cuDNN's as of
// CudnnBackwardBytes, rows gathered for CUTLASS. Not counted: what cuDNN's and CUTLASS's kernels
// take beyond (tensor maps for each multiprocessor; cuDNN does not say), copies of offsets
// (device_copies.h; some 100 KiB), and what the driver and libraries hold outside of the allocator.
#pragma once

#include "kernels/scratch.h"

namespace plait::cuda {

class Scratch final : public KernelScratch {
 public:
  explicit Scratch(DeviceLibraries libraries) : libraries_(libraries) {}

  Blocks Kept() const override;
  Blocks Matmul(const MatmulScratchShape& shape) const override;
  Blocks GroupedMatmul(const GroupedScratchShape& shape) const override;
  Blocks GroupedWeightGradient(const GroupedScratchShape& shape) const override;
  Blocks AttentionForward(const AttentionScratchShape& shape) const override;
  Blocks AttentionBackward(const AttentionScratchShape& shape) const override;
  Blocks SelectiveScanForward(const ScanScratchShape& shape) const override;
  Blocks SelectiveScanBackward(const ScanScratchShape& shape) const override;
  Blocks CausalConvolutionBackward(DType dtype, int64_t tokens, int64_t channels,
                                   int64_t width) const override;
  Blocks RmsNormBackward(DType dtype, int64_t tokens, int64_t dim) const override;
  Blocks ColumnSum(DType dtype, int64_t rows, int64_t columns) const override;
  Blocks EmbeddingBackward(int64_t tokens, int64_t vocabulary) const override;
  Blocks ExpertPermutation(int64_t pairs, int64_t experts) const override;

 private:
  bool has_libraries() const { return libraries_ == DeviceLibraries::kPresent; }
  bool IsForCudnn(const AttentionScratchShape& shape) const;

  const DeviceLibraries libraries_;
};

}  // namespace plait::cuda
