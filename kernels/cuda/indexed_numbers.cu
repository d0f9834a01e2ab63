#include "kernels/cuda/device.h"
#include "kernels/cuda/dispatch.h"
#include "kernels/cuda/indexed_numbers.h"

namespace plait::cuda {
namespace {

constexpr int kBlockThreads = 256;

template <class T>
__global__ void GatherKernel(const T* values, const int32_t* index, T* out, int64_t count) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i < count) out[i] = values[index[i]];
}

template <class T>
__global__ void ScatterKernel(const T* values, const int32_t* index, T* out, int64_t count) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i < count) out[index[i]] = values[i];
}

}  // namespace

absl::Status GatherNumbers(Execution& execution, const GatherNumbersArgs& args) {
  return DispatchWide(args.values.dtype, [&](auto t) {
    using T = typename decltype(t)::Type;
    return ToStatus(LaunchKernel(GatherKernel<T>, {BlocksFor(args.out.size, kBlockThreads)},
                                 {kBlockThreads}, 0, execution.compute().handle(),
                                 args.values.as<T>(), args.index, args.out.as<T>(), args.out.size),
                    "gather of numbers");
  });
}

absl::Status ScatterNumbers(Execution& execution, const ScatterNumbersArgs& args) {
  return DispatchWide(args.values.dtype, [&](auto t) {
    using T = typename decltype(t)::Type;
    return ToStatus(
        LaunchKernel(ScatterKernel<T>, {BlocksFor(args.values.size, kBlockThreads)},
                     {kBlockThreads}, 0, execution.compute().handle(), args.values.as<T>(),
                     args.index, args.out.as<T>(), args.values.size),
        "scatter of numbers");
  });
}

}  // namespace plait::cuda
