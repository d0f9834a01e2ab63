#include <algorithm>

#include "kernels/cuda/device.h"
#include "kernels/cuda/rank_reduction.h"
#include "kernels/cuda/runtime.h"

namespace plait::cuda {
namespace {

constexpr int kBlockThreads = 256;
// Eight blocks for each of 132 multiprocessors; each thread goes on to further packs.
constexpr int64_t kMaxBlocks = 1056;
constexpr int kPackBytes = 16;

// What sums and maxima are kept in. Unsigned sums wrap around.
template <class T>
struct Arithmetic {
  using Type = T;
};
template <>
struct Arithmetic<BFloat16> {
  using Type = float;
};

template <class A, class T>
__device__ __forceinline__ A Widen(T value) {
  if constexpr (std::is_same_v<T, BFloat16>) {
    return ToFloat(value);
  } else {
    return value;
  }
}

template <bool kSum, class A>
__device__ __forceinline__ A Combine(A total, A value) {
  if constexpr (kSum) {
    return total + value;
  } else {
    return total < value ? value : total;
  }
}

template <class T>
__device__ __forceinline__ const T* Source(const RankReductionArgs& args, int rank) {
  if (rank == args.own_rank && args.own != nullptr) return static_cast<const T*>(args.own);
  return static_cast<const T*>(args.gathered) + rank * args.stride;
}

template <class T, int kCount, bool kSum>
__device__ __forceinline__ void ReducePack(const RankReductionArgs& args, int64_t index) {
  using A = typename Arithmetic<T>::Type;
  using P = Pack<T, kCount>;
  P pack = reinterpret_cast<const P*>(Source<T>(args, 0))[index];
  A total[kCount];
  PLAIT_UNROLL
  for (int i = 0; i < kCount; ++i) total[i] = Widen<A>(pack.values[i]);
  for (int rank = 1; rank < args.ranks; ++rank) {
    pack = reinterpret_cast<const P*>(Source<T>(args, rank))[index];
    PLAIT_UNROLL
    for (int i = 0; i < kCount; ++i) total[i] = Combine<kSum>(total[i], Widen<A>(pack.values[i]));
  }
  PLAIT_UNROLL
  for (int i = 0; i < kCount; ++i) pack.values[i] = Round<T>(total[i]);
  static_cast<P*>(args.output)[index] = pack;
}

template <class T, int kCount, bool kSum>
__global__ void __launch_bounds__(kBlockThreads) ReduceKernel(RankReductionArgs args) {
  const int64_t first = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  const int64_t step = static_cast<int64_t>(gridDim.x) * blockDim.x;
  const int64_t packs = args.elements / kCount;
  for (int64_t pack = first; pack < packs; pack += step) ReducePack<T, kCount, kSum>(args, pack);
  for (int64_t i = packs * kCount + first; i < args.elements; i += step) {
    ReducePack<T, 1, kSum>(args, i);
  }
}

bool IsAligned(const void* at) { return reinterpret_cast<uintptr_t>(at) % kPackBytes == 0; }

template <class T, bool kSum>
absl::Status Launch(StreamHandle stream, const RankReductionArgs& args) {
  constexpr int kCount = kPackBytes / static_cast<int>(sizeof(T));
  const bool packs = IsAligned(args.gathered) && IsAligned(args.own) && IsAligned(args.output) &&
                     args.stride % kCount == 0;
  const int64_t work = packs ? args.elements / kCount + 1 : args.elements;
  const auto blocks =
      static_cast<unsigned>(std::min((work + kBlockThreads - 1) / kBlockThreads, kMaxBlocks));
  return ToStatus(LaunchKernel(packs ? ReduceKernel<T, kCount, kSum> : ReduceKernel<T, 1, kSum>,
                               {blocks}, {kBlockThreads}, 0, stream, args),
                  "reducing over ranks");
}

// S: of sums, M: of maxima.
template <class S, class M>
absl::Status Launch(StreamHandle stream, const RankReductionArgs& args) {
  if (args.reduction == RankReduction::kSum) return Launch<S, true>(stream, args);
  return Launch<M, false>(stream, args);
}

}  // namespace

absl::Status ReduceRanks(StreamHandle stream, const RankReductionArgs& args) {
  if (args.elements == 0) return absl::OkStatus();
  switch (args.dtype) {
    case DType::kBf16:
      return Launch<BFloat16, BFloat16>(stream, args);
    case DType::kF32:
      return Launch<float, float>(stream, args);
    case DType::kF64:
      return Launch<double, double>(stream, args);
    case DType::kI32:
      return Launch<uint32_t, int32_t>(stream, args);
    case DType::kI64:
      return Launch<uint64_t, int64_t>(stream, args);
    case DType::kF16:
      break;
  }
  return absl::InvalidArgumentError("reducing over ranks: f16 is for storage only");
}

}  // namespace plait::cuda
