#include <cmath>

#include "kernels/cuda/arithmetic.h"
#include "kernels/cuda/device.h"
#include "kernels/cuda/dispatch.h"
#include "kernels/cuda/reduction.h"
#include "kernels/cuda/token_cross_entropy.h"
#include "kernels/cuda/vector_access.h"

namespace plait::cuda {
namespace {

// log_sum_exp = largest + log sum. One that is given stands as a largest logit whose sum is 1.
template <class A>
struct LogitStatistics {
  A largest;  // max_v logits[v]; -infinity where there is none
  A sum;      // sum_v exp(logits[v] - largest)
};

// What a sum relative to `from` is multiplied with to be relative to `to`, which is no less. Where
// both are -infinity the sum is zero or NaN, and stays.
template <class A>
__device__ __forceinline__ A Rescale(A from, A to) {
  return from == to ? A{1} : Exp(from - to);
}

template <class A>
__device__ __forceinline__ LogitStatistics<A> BlockJoin(LogitStatistics<A> own) {
  const A largest = BlockMax(own.largest);
  return {largest, BlockSum(own.sum * Rescale(own.largest, largest))};
}

// Parts of a row: elements one by one up to `head`, where vectors are aligned; vectors; the rest.
struct RowParts {
  int64_t head, vectors;
};

// kVector: elements of a vector of both rows; `other` may be null.
template <int kVector, class T, class U>
__device__ __forceinline__ RowParts PartsOf(const T* row, const U* other, int64_t columns) {
  constexpr auto kBytes = static_cast<uintptr_t>(kAccessBytes);
  for (int64_t head = 0; head < kVector && head < columns; ++head) {
    constexpr uintptr_t kOwn = sizeof(T) * kVector < kBytes ? sizeof(T) * kVector : kBytes;
    constexpr uintptr_t kOther = sizeof(U) * kVector < kBytes ? sizeof(U) * kVector : kBytes;
    if (reinterpret_cast<uintptr_t>(row + head) % kOwn == 0 &&
        (other == nullptr || reinterpret_cast<uintptr_t>(other + head) % kOther == 0)) {
      return {head, (columns - head) / kVector};
    }
  }
  return {columns, 0};
}

// body(first element, std::integral_constant<int, number of elements>), over the block's threads.
template <int kVector, class Body>
__device__ __forceinline__ void ForEachPart(RowParts parts, int64_t columns, Body body) {
  for (int64_t i = threadIdx.x; i < parts.head; i += blockDim.x) {
    body(i, std::integral_constant<int, 1>());
  }
  for (int64_t i = threadIdx.x; i < parts.vectors; i += blockDim.x) {
    body(parts.head + i * kVector, std::integral_constant<int, kVector>());
  }
  for (int64_t i = parts.head + parts.vectors * kVector + threadIdx.x; i < columns;
       i += blockDim.x) {
    body(i, std::integral_constant<int, 1>());
  }
}

template <int kVector, class L>
__device__ __forceinline__ LogitStatistics<Accumulator<L>> Statistics(const L* logits,
                                                                      int64_t vocabulary) {
  using A = Accumulator<L>;
  constexpr A kMinusInfinity = -static_cast<A>(HUGE_VAL);
  LogitStatistics<A> own = {kMinusInfinity, 0};
  const RowParts parts = PartsOf<kVector, L, L>(logits, nullptr, vocabulary);
  ForEachPart<kVector>(parts, vocabulary, [&](int64_t v, auto constant) {
    constexpr int kCount = decltype(constant)::value;
    L stored[kCount];
    LoadVector(logits + v, kCount, stored);
    // A NaN is larger than nothing; its exponential makes the sum NaN.
    A largest = own.largest;
    PLAIT_UNROLL
    for (int i = 0; i < kCount; ++i) {
      const A logit = Load(stored[i]);
      largest = logit > largest ? logit : largest;
    }
    A sum = own.sum * Rescale(own.largest, largest);
    // While all are -infinity, whose distance from itself is no number, any shift gives zeros.
    const A shift = largest == kMinusInfinity ? A{0} : largest;
    PLAIT_UNROLL
    for (int i = 0; i < kCount; ++i) sum += Exp(Load(stored[i]) - shift);
    own = {largest, sum};
  });
  return BlockJoin(own);
}

template <class G, int kCount>
__device__ __forceinline__ void StoreZeros(int64_t v, G* dlogits) {
  G zeros[kCount];
  PLAIT_UNROLL
  for (int i = 0; i < kCount; ++i) zeros[i] = Round<G>(0.0f);
  StoreVector(zeros, kCount, dlogits + v);
}

// L, G: element types of logits and dlogits. dlogits may lie in logits: an element is written by
// the thread that has read it.
template <class L, class G, int kBlockThreads>
__global__ void __launch_bounds__(kBlockThreads) RowKernel(TokenCrossEntropyArgs args) {
  using A = Accumulator<L>;
  constexpr int kVector = kVectorElements<L, G>;
  const int64_t t = blockIdx.x, vocabulary = args.logits.columns;
  const L* logits = args.logits.row<L>(t);
  const A coefficient = args.coefficient ? args.coefficient.as<A>()[t] : A{0};
  const int32_t target = args.targets[t];
  const bool has_target = target >= 0 && target < vocabulary;
  const A target_logit = has_target ? static_cast<A>(Load(logits[target])) : A{0};
  if (args.target_logit && threadIdx.x == 0) args.target_logit.as<A>()[t] = target_logit;
  A log_probability = 0;
  LogitStatistics<A> row = {};
  if (coefficient != 0 || args.log_probability || args.log_sum_exp) {
    if (args.given_log_sum_exp) {
      row = {args.given_log_sum_exp.as<A>()[t], 1};
    } else {
      row = Statistics<kVectorElements<L>>(logits, vocabulary);
    }
    const A log_sum = Log(row.sum);
    if (has_target) log_probability = target_logit - row.largest - log_sum;
    if (args.log_probability && threadIdx.x == 0) {
      args.log_probability.as<A>()[t] = log_probability;
    }
    if (args.log_sum_exp && threadIdx.x == 0) {
      args.log_sum_exp.as<A>()[t] = row.largest + log_sum;
    }
  }
  if (!args.coefficient) return;
  __syncthreads();  // all have read the target's logit
  G* dlogits = args.dlogits.row<G>(t);
  const RowParts parts = PartsOf<kVector>(logits, dlogits, vocabulary);
  if (coefficient == 0) {
    ForEachPart<kVector>(parts, vocabulary, [&](int64_t v, auto constant) {
      StoreZeros<G, decltype(constant)::value>(v, dlogits);
    });
    return;
  }
  const A scale = -coefficient / row.sum;
  // 1 - probability, without cancellation where the probability is near 1.
  const A of_target = -coefficient * Expm1(log_probability);
  ForEachPart<kVector>(parts, vocabulary, [&](int64_t v, auto constant) {
    constexpr int kCount = decltype(constant)::value;
    L stored[kCount];
    G gradient[kCount];
    LoadVector(logits + v, kCount, stored);
    PLAIT_UNROLL
    for (int i = 0; i < kCount; ++i) {
      gradient[i] =
          Round<G>(v + i == target ? of_target : Exp(Load(stored[i]) - row.largest) * scale);
    }
    StoreVector(gradient, kCount, dlogits + v);
  });
}

template <class L, class G>
absl::Status Launch(Execution& execution, const TokenCrossEntropyArgs& args) {
  const auto rows = static_cast<unsigned>(args.logits.rows);
  const auto launch = [&](auto threads) {
    constexpr int kBlockThreads = decltype(threads)::value;
    return ToStatus(LaunchKernel(RowKernel<L, G, kBlockThreads>, {rows}, {kBlockThreads}, 0,
                                 execution.compute().handle(), args),
                    "token_cross_entropy");
  };
  constexpr int64_t kNarrow = 4096;
  if (args.logits.columns <= kNarrow) return launch(std::integral_constant<int, 128>());
  return launch(std::integral_constant<int, 512>());
}

}  // namespace

std::string AcceptsTokenCrossEntropy(const TokenCrossEntropyArgs& args) {
  const DType logits = args.logits.dtype;
  if (!IsFloating(logits)) return "dtypes other than bf16, f32 and f64";
  if (args.dlogits) {
    if (!IsFloating(args.dlogits.dtype)) return "dtypes other than bf16, f32 and f64";
    if ((args.dlogits.dtype == DType::kF64) != (logits == DType::kF64)) {
      return "f64 beside another dtype";
    }
  }
  for (const ConstVectorView& vector :
       {ConstVectorView(args.log_probability), ConstVectorView(args.log_sum_exp),
        ConstVectorView(args.target_logit), args.given_log_sum_exp, args.coefficient}) {
    if (vector && vector.dtype != StatisticsDType(logits)) {
      return "a per-row vector of another precision";
    }
  }
  return "";
}

absl::Status TokenCrossEntropy(Execution& execution, const TokenCrossEntropyArgs& args) {
  const bool wide_logits = args.logits.dtype == DType::kF32;
  const bool wide = args.dlogits ? args.dlogits.dtype == DType::kF32 : wide_logits;
  if (args.logits.dtype == DType::kF64) return Launch<double, double>(execution, args);
  if (wide_logits && wide) return Launch<float, float>(execution, args);
  if (wide_logits) return Launch<float, BFloat16>(execution, args);
  if (wide) return Launch<BFloat16, float>(execution, args);
  return Launch<BFloat16, BFloat16>(execution, args);
}

}  // namespace plait::cuda
