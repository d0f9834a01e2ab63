#include <algorithm>
#include <cmath>

#include "base/status_macros.h"
#include "kernels/cuda/device.h"
#include "kernels/cuda/dispatch.h"
#include "kernels/cuda/expert_routing.h"
#include "kernels/cuda/reduction.h"

namespace plait::cuda {
namespace {

constexpr int kBlockThreads = 256;
constexpr int kBlockWarps = kBlockThreads / kWarpThreads;
// A lane keeps which of its experts are taken in 64 bits.
constexpr int64_t kMaxExperts = int64_t{64} * kWarpThreads;
// Pairs that a block of the permutation sorts.
constexpr int64_t kTilePairs = 2048;
constexpr int64_t kWarpPairs = kTilePairs / kBlockWarps;

__device__ __forceinline__ float Exp(float x) { return expf(x); }
__device__ __forceinline__ double Exp(double x) { return exp(x); }
__device__ __forceinline__ float Log(float x) { return logf(x); }
__device__ __forceinline__ double Log(double x) { return log(x); }

// Over the kLanes lanes that share a token, all lanes of the warp calling.
template <int kLanes, class A>
__device__ __forceinline__ A LanesSum(A value) {
  PLAIT_UNROLL
  for (int lanes = kLanes / 2; lanes > 0; lanes /= 2) {
    value += __shfl_xor_sync(kWholeWarp, value, lanes);
  }
  return value;
}

// Whether logit a of expert e is chosen before b of f: the larger, the lower id among equals, NaN
// after all others. Expert -1: none.
template <class A>
__device__ __forceinline__ bool ComesBefore(A a, int e, A b, int f) {
  if (f < 0) return e >= 0;
  if (e < 0) return false;
  const bool a_is_number = a == a, b_is_number = b == b;
  if (a_is_number != b_is_number) return a_is_number;
  if (a > b) return true;
  return !(a < b) && e < f;
}

// Lane l of a token's kLanes has experts l, l + kLanes, ...
template <class A, int kLanes>
__global__ void __launch_bounds__(kBlockThreads) RouterForwardKernel(RouterForwardArgs args) {
  const int lane = static_cast<int>(threadIdx.x) % kLanes;
  const int64_t token =
      static_cast<int64_t>(blockIdx.x) * (kBlockThreads / kLanes) + threadIdx.x / kLanes;
  const bool inside = token < args.logits.rows;
  const int64_t t = inside ? token : args.logits.rows - 1;  // all lanes take part in shuffles
  const int experts = static_cast<int>(args.logits.columns);
  const int chosen = static_cast<int>(args.experts_per_token);
  const A* logits = args.logits.row<A>(t);

  A largest = logits[0];
  for (int e = lane; e < experts; e += kLanes) largest = logits[e] > largest ? logits[e] : largest;
  PLAIT_UNROLL
  for (int lanes = kLanes / 2; lanes > 0; lanes /= 2) {
    const A other = __shfl_xor_sync(kWholeWarp, largest, lanes);
    largest = other > largest ? other : largest;
  }
  A sum = 0;
  for (int e = lane; e < experts; e += kLanes) sum += Exp(logits[e] - largest);
  sum = LanesSum<kLanes>(sum);
  if (inside) {
    if (lane == 0) args.log_sum_exp.as<A>()[t] = largest + Log(sum);
    A* probabilities = args.probabilities.row<A>(t);
    for (int e = lane; e < experts; e += kLanes) probabilities[e] = Exp(logits[e] - largest) / sum;
  }

  uint64_t taken = 0;
  for (int j = 0; j < chosen; ++j) {
    int best = -1;
    A best_logit = 0;
    for (int e = lane; e < experts; e += kLanes) {
      if ((taken >> (e / kLanes) & 1) != 0) continue;
      if (ComesBefore(logits[e], e, best_logit, best)) {
        best = e;
        best_logit = logits[e];
      }
    }
    PLAIT_UNROLL
    for (int lanes = kLanes / 2; lanes > 0; lanes /= 2) {
      const int other = __shfl_xor_sync(kWholeWarp, best, lanes);
      const A other_logit = __shfl_xor_sync(kWholeWarp, best_logit, lanes);
      if (ComesBefore(other_logit, other, best_logit, best)) {
        best = other;
        best_logit = other_logit;
      }
    }
    if (best % kLanes == lane) taken |= uint64_t{1} << (best / kLanes);
    if (inside && lane == 0) {
      args.choices[t * chosen + j] = best;
      args.weights.row<A>(t)[j] = Exp(best_logit - largest) / sum;
    }
  }
}

template <class A, int kLanes>
__global__ void __launch_bounds__(kBlockThreads) RouterBackwardKernel(RouterBackwardArgs args) {
  const int lane = static_cast<int>(threadIdx.x) % kLanes;
  const int64_t token =
      static_cast<int64_t>(blockIdx.x) * (kBlockThreads / kLanes) + threadIdx.x / kLanes;
  const bool inside = token < args.probabilities.rows;
  const int64_t t = inside ? token : args.probabilities.rows - 1;
  const int experts = static_cast<int>(args.probabilities.columns);
  const int chosen = static_cast<int>(args.dweights.columns);
  const A* probabilities = args.probabilities.row<A>(t);
  const A* dweights = args.dweights.row<A>(t);
  const int32_t* choices = args.choices + t * chosen;
  const A* balance_gradient = args.balance_gradient.as<A>();
  const A real = args.real.as<A>()[t];
  const auto dprobability = [&](int e) {
    A dp = balance_gradient != nullptr ? real * balance_gradient[e] : A{0};
    for (int j = 0; j < chosen; ++j) {
      if (choices[j] == e) dp += dweights[j];
    }
    return dp;
  };
  A mean = 0;
  for (int e = lane; e < experts; e += kLanes) mean += probabilities[e] * dprobability(e);
  mean = LanesSum<kLanes>(mean);
  if (!inside) return;
  const A z = real * 2 * static_cast<A>(args.z_coefficient) * args.log_sum_exp.as<A>()[t];
  A* dlogits = args.dlogits.row<A>(t);
  for (int e = lane; e < experts; e += kLanes) {
    dlogits[e] = probabilities[e] * (dprobability(e) - mean + z);
  }
}

// counts[e, tile]: pairs of expert e in a tile; one block a tile.
__global__ void __launch_bounds__(kBlockThreads)
    CountPairsKernel(ExpertPermutationArgs args, int64_t pairs, int32_t* counts) {
  PLAIT_DYNAMIC_SHARED(int32_t, in_tile);
  const int experts = static_cast<int>(args.experts);
  for (int e = static_cast<int>(threadIdx.x); e < experts; e += kBlockThreads) in_tile[e] = 0;
  __syncthreads();
  const int64_t begin = static_cast<int64_t>(blockIdx.x) * kTilePairs;
  for (int64_t i = threadIdx.x; i < kTilePairs && begin + i < pairs; i += kBlockThreads) {
    atomicAdd(&in_tile[args.choices[begin + i]], 1);
  }
  __syncthreads();
  for (int e = static_cast<int>(threadIdx.x); e < experts; e += kBlockThreads) {
    counts[static_cast<int64_t>(e) * gridDim.x + blockIdx.x] = in_tile[e];
  }
}

// counts[e, tile] becomes the first sorted row of the expert's pairs in the tile. One block.
__global__ void __launch_bounds__(1024)
    PrefixKernel(int32_t* counts, int64_t experts, int64_t tiles, int32_t* offsets) {
  PLAIT_SHARED(int32_t, warps, kWarpThreads);
  const int lane = static_cast<int>(threadIdx.x) % kWarpThreads;
  const int warp = static_cast<int>(threadIdx.x) / kWarpThreads;
  const int num_warps = static_cast<int>(blockDim.x) / kWarpThreads;
  const auto inclusive = [lane](int32_t value) {
    for (int lanes = 1; lanes < kWarpThreads; lanes *= 2) {
      const int32_t before = __shfl_up_sync(kWholeWarp, value, static_cast<unsigned>(lanes));
      if (lane >= lanes) value += before;
    }
    return value;
  };
  int32_t carried = 0;
  for (int64_t first = 0; first < experts * tiles; first += blockDim.x) {
    const int64_t i = first + threadIdx.x;
    const int32_t count = i < experts * tiles ? counts[i] : 0;
    const int32_t in_warp = inclusive(count);
    if (lane == kWarpThreads - 1) warps[warp] = in_warp;
    __syncthreads();
    const int32_t warp_ends = inclusive(lane < num_warps ? warps[lane] : 0);
    const int32_t before_warp = __shfl_sync(kWholeWarp, warp_ends, warp > 0 ? warp - 1 : 0);
    const int32_t begin = carried + (warp > 0 ? before_warp : 0) + in_warp - count;
    if (i < experts * tiles) {
      counts[i] = begin;
      if (i % tiles == 0) offsets[i / tiles] = begin;
    }
    carried += __shfl_sync(kWholeWarp, warp_ends, num_warps - 1);
    __syncthreads();
  }
  if (threadIdx.x == 0) offsets[experts] = carried;
}

__global__ void FillOffsetsKernel(int32_t* offsets, int64_t experts) {
  for (int64_t e = threadIdx.x; e <= experts; e += blockDim.x) offsets[e] = 0;
}

// starts: of PrefixKernel. Warp w of a block takes the w-th 256 pairs of the tile, 32 at a time; a
// pair's rank among the 32 is the number of lower lanes that vote for its expert.
__global__ void __launch_bounds__(kBlockThreads)
    ScatterPairsKernel(ExpertPermutationArgs args, int64_t pairs, const int32_t* starts) {
  PLAIT_DYNAMIC_SHARED(int32_t, next);  // [warps, experts]: next row of the expert for the warp
  const int experts = static_cast<int>(args.experts);
  const int lane = static_cast<int>(threadIdx.x) % kWarpThreads;
  const int warp = static_cast<int>(threadIdx.x) / kWarpThreads;
  for (int i = static_cast<int>(threadIdx.x); i < kBlockWarps * experts; i += kBlockThreads) {
    next[i] = 0;
  }
  __syncthreads();
  const int64_t begin = static_cast<int64_t>(blockIdx.x) * kTilePairs + warp * kWarpPairs;
  int32_t* const own_next = next + warp * experts;
  for (int64_t i = lane; i < kWarpPairs && begin + i < pairs; i += kWarpThreads) {
    atomicAdd(&own_next[args.choices[begin + i]], 1);
  }
  __syncthreads();
  for (int e = static_cast<int>(threadIdx.x); e < experts; e += kBlockThreads) {
    int32_t row = starts[static_cast<int64_t>(e) * gridDim.x + blockIdx.x];
    for (int w = 0; w < kBlockWarps; ++w) {
      const int32_t count = next[w * experts + e];
      next[w * experts + e] = row;
      row += count;
    }
  }
  __syncthreads();
  for (int64_t i = lane; i < kWarpPairs; i += kWarpThreads) {
    const int64_t pair = begin + i;
    const bool inside = pair < pairs;
    const int expert = inside ? args.choices[pair] : 0;
    unsigned equals = __ballot_sync(kWholeWarp, inside);
    if (equals == 0) break;
    for (int bit = 1; bit < experts; bit *= 2) {
      const unsigned votes = __ballot_sync(kWholeWarp, (expert & bit) != 0);
      equals &= (expert & bit) != 0 ? votes : ~votes;
    }
    const int rank = __popc(equals & ((1u << lane) - 1));
    const int32_t first = inside ? own_next[expert] : 0;
    __syncwarp();
    if (inside) {
      if (rank == 0) own_next[expert] = first + __popc(equals);
      const int32_t row = first + rank;
      args.row_token[row] = args.first_token + static_cast<int32_t>(pair / args.experts_per_token);
      args.token_row[pair] = args.first_row + row;
    }
    __syncwarp();
  }
}

// One block a token, kCount neighbouring elements a thread and turn. O: of out.
template <class T, class O, int kCount>
__global__ void __launch_bounds__(kBlockThreads) CombineRowsKernel(CombineRowsArgs args) {
  using A = Accumulator<T>;
  const int64_t t = blockIdx.x;
  const int32_t* token_row = args.token_row + t * args.experts_per_token;
  for (int64_t d = int64_t{threadIdx.x} * kCount; d < args.out.columns;
       d += int64_t{blockDim.x} * kCount) {
    A sums[kCount] = {};
    for (int64_t j = 0; j < args.experts_per_token; ++j) {
      const auto values = *reinterpret_cast<const Pack<T, kCount>*>(
          args.rows.row<T>(token_row[j] - args.first_row) + d);
      PLAIT_UNROLL
      for (int i = 0; i < kCount; ++i) sums[i] += Load(values.values[i]);
    }
    Pack<O, kCount> out;
    PLAIT_UNROLL
    for (int i = 0; i < kCount; ++i) out.values[i] = Round<O>(sums[i]);
    *reinterpret_cast<Pack<O, kCount>*>(args.out.row<O>(t) + d) = out;
  }
}

std::string AcceptsRouter(DType dtype, int64_t experts, std::initializer_list<DType> others) {
  if (dtype != DType::kF32 && dtype != DType::kF64) return Name(dtype);
  for (const DType other : others) {
    if (other != dtype) return absl::StrCat(Name(dtype), " beside ", Name(other));
  }
  return experts > kMaxExperts ? absl::StrCat("more than ", kMaxExperts, " experts") : "";
}

// body(TypeTag<A>, lanes as an integral constant): half a warp where all experts fit.
template <class Body>
absl::Status DispatchRouter(DType dtype, int64_t experts, Body&& body) {
  return DispatchWide(dtype, [&](auto a) {
    if (experts <= 16) return body(a, std::integral_constant<int, 16>());
    return body(a, std::integral_constant<int, 32>());
  });
}

// Whether kCount elements may be read at once wherever a multiple of kCount columns begins.
bool IsAligned(const ConstMatrixView& view, int64_t count) {
  const auto bytes = static_cast<uintptr_t>(count) * SizeOf(view.dtype);
  return reinterpret_cast<uintptr_t>(view.data) % bytes == 0 && view.row_stride % count == 0 &&
         view.columns % count == 0;
}

}  // namespace

std::string AcceptsRouterForward(const RouterForwardArgs& args) {
  return AcceptsRouter(args.logits.dtype, args.logits.columns,
                       {args.probabilities.dtype, args.weights.dtype, args.log_sum_exp.dtype});
}

absl::Status RouterForward(Execution& execution, const RouterForwardArgs& args) {
  if (args.logits.rows == 0) return absl::OkStatus();
  return DispatchRouter(args.logits.dtype, args.logits.columns, [&](auto a, auto lanes) {
    using A = typename decltype(a)::Type;
    constexpr int kLanes = decltype(lanes)::value;
    return ToStatus(LaunchKernel(RouterForwardKernel<A, kLanes>,
                                 {BlocksFor(args.logits.rows, kBlockThreads / kLanes)},
                                 {kBlockThreads}, 0, execution.compute().handle(), args),
                    "router forward");
  });
}

std::string AcceptsRouterBackward(const RouterBackwardArgs& args) {
  const DType dtype = args.probabilities.dtype;
  return AcceptsRouter(
      dtype, args.probabilities.columns,
      {args.dweights.dtype, args.real.dtype, args.log_sum_exp.dtype, args.dlogits.dtype,
       args.balance_gradient ? args.balance_gradient.dtype : dtype});
}

absl::Status RouterBackward(Execution& execution, const RouterBackwardArgs& args) {
  const int64_t tokens = args.probabilities.rows;
  if (tokens == 0) return absl::OkStatus();
  return DispatchRouter(
      args.probabilities.dtype, args.probabilities.columns, [&](auto a, auto lanes) {
        using A = typename decltype(a)::Type;
        constexpr int kLanes = decltype(lanes)::value;
        return ToStatus(LaunchKernel(RouterBackwardKernel<A, kLanes>,
                                     {BlocksFor(tokens, kBlockThreads / kLanes)}, {kBlockThreads},
                                     0, execution.compute().handle(), args),
                        "router backward");
      });
}

std::string AcceptsExpertPermutation(const ExpertPermutationArgs& args) {
  return args.experts > kMaxExperts ? absl::StrCat("more than ", kMaxExperts, " experts") : "";
}

absl::Status ExpertPermutation(Execution& execution, const ExpertPermutationArgs& args) {
  const int64_t pairs = args.tokens * args.experts_per_token;
  StreamHandle stream = execution.compute().handle();
  if (pairs == 0) {
    return ToStatus(LaunchKernel(FillOffsetsKernel, {1}, {kBlockThreads}, 0, stream, args.offsets,
                                 args.experts),
                    "expert permutation");
  }
  const unsigned tiles = BlocksFor(pairs, kTilePairs);
  const auto expert_bytes = static_cast<size_t>(args.experts) * sizeof(int32_t);
  Tensor counts = execution.Empty(DType::kI32, {args.experts, int64_t{tiles}});
  PLAIT_RETURN_IF_ERROR(
      ToStatus(LaunchKernel(CountPairsKernel, {tiles}, {kBlockThreads}, expert_bytes, stream, args,
                            pairs, counts.data<int32_t>()),
               "expert permutation"));
  // No more threads than there are counts.
  const int64_t threads = std::min<int64_t>(
      1024, BlocksFor(counts.num_elements(), kWarpThreads) * int64_t{kWarpThreads});
  PLAIT_RETURN_IF_ERROR(
      ToStatus(LaunchKernel(PrefixKernel, {1}, {static_cast<unsigned>(threads)}, 0, stream,
                            counts.data<int32_t>(), args.experts, int64_t{tiles}, args.offsets),
               "expert permutation"));
  return ToStatus(
      LaunchKernel(ScatterPairsKernel, {tiles}, {kBlockThreads}, kBlockWarps * expert_bytes, stream,
                   args, pairs, counts.data<int32_t>()),
      "expert permutation");
}

KernelScratch::Blocks ExpertPermutationScratch(int64_t pairs, int64_t experts) {
  if (pairs == 0) return {};
  return {4 * experts * int64_t{BlocksFor(pairs, kTilePairs)}};
}

std::string AcceptsCombineRows(const CombineRowsArgs& args) {
  if (!IsFloating(args.out.dtype)) return Name(args.out.dtype);
  const bool widens = args.rows.dtype == DType::kBf16 && args.out.dtype == DType::kF32;
  return args.rows.dtype == args.out.dtype || widens ? "" : "rows and out differ in dtype";
}

absl::Status CombineRows(Execution& execution, const CombineRowsArgs& args) {
  const int64_t tokens = args.out.rows, dim = args.out.columns;
  if (tokens == 0 || dim == 0) return absl::OkStatus();
  return DispatchFloating(args.rows.dtype, [&](auto t) {
    using T = typename decltype(t)::Type;
    const auto launch = [&](auto count) {
      constexpr int kCount = decltype(count)::value;
      auto* kernel = CombineRowsKernel<T, T, kCount>;
      if (args.out.dtype != args.rows.dtype) kernel = CombineRowsKernel<T, Accumulator<T>, kCount>;
      const int64_t threads = std::min<int64_t>(
          kBlockThreads, BlocksFor(dim, kCount * kWarpThreads) * int64_t{kWarpThreads});
      return ToStatus(
          LaunchKernel(kernel, {static_cast<unsigned>(tokens)}, {static_cast<unsigned>(threads)}, 0,
                       execution.compute().handle(), args),
          "combine rows");
    };
    constexpr int kVector = 16 / sizeof(T);
    if (IsAligned(args.rows, kVector) && IsAligned(args.out, kVector)) {
      return launch(std::integral_constant<int, kVector>());
    }
    return launch(std::integral_constant<int, 1>());
  });
}

}  // namespace plait::cuda
