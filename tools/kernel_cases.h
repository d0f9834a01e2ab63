// The cases of `plait bench kernels`: each function makes the arguments of some operations of
// KernelSizes and times them. Tensors of one case are gone when it returns.
#pragma once

#include "absl/status/status.h"
#include "tools/kernel_sizes.h"
#include "tools/kernel_timer.h"

namespace plait {

// Every operation of a hybrid model, forward and backward: all of the below, and those of
// kernel_cases.cc.
absl::Status TimeKernels(KernelTimer& timer, const KernelSizes& sizes);

// product_kernel_cases.cc
absl::Status TimeMatmul(KernelTimer& timer, const KernelSizes& sizes);
absl::Status TimeLinearCrossEntropy(KernelTimer& timer, const KernelSizes& sizes);

// attention_kernel_cases.cc
absl::Status TimeAttention(KernelTimer& timer, const KernelSizes& sizes);
absl::Status TimeRotaryEmbedding(KernelTimer& timer, const KernelSizes& sizes);

// mamba_kernel_cases.cc
absl::Status TimeCausalConvolution(KernelTimer& timer, const KernelSizes& sizes);
absl::Status TimeSelectiveScan(KernelTimer& timer, const KernelSizes& sizes);

// expert_kernel_cases.cc
absl::Status TimeExpertRouting(KernelTimer& timer, const KernelSizes& sizes);
absl::Status TimeGroupedMatmul(KernelTimer& timer, const KernelSizes& sizes);
absl::Status TimeWeightedActivation(KernelTimer& timer, const KernelSizes& sizes);

}  // namespace plait
