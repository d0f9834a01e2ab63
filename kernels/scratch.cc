#include "kernels/scratch.h"

#include "kernels/cpu/scratch.h"
#include "kernels/cuda/scratch.h"

namespace plait {

std::unique_ptr<const KernelScratch> MakeKernelScratch(const KernelSet& kernels) {
  if (kernels.device == DeviceKind::kCpu) return std::make_unique<cpu::Scratch>(kernels.threads);
  return std::make_unique<cuda::Scratch>(kernels.libraries);
}

}  // namespace plait
