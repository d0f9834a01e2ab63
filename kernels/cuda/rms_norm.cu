#include <algorithm>
#include <bit>

#include "base/status_macros.h"
#include "kernels/cuda/arithmetic.h"
#include "kernels/cuda/device.h"
#include "kernels/cuda/dispatch.h"
#include "kernels/cuda/partial_sums.h"
#include "kernels/cuda/rms_norm.h"
#include "kernels/cuda/row_threads.h"
#include "kernels/cuda/vector_access.h"

namespace plait::cuda {
namespace {

// Elements of a row that a thread holds between the two passes over it, in 16 registers (bf16 in
// pairs where it comes in vectors). A row is shared by a warp or by a block, of as many warps as
// hold it; a wider one is read again, part by part.
template <class T, int kVector>
constexpr int kHeld = sizeof(T) == 2 && kVector == 1 ? 16 : 64 / static_cast<int>(sizeof(T));
constexpr int kMaxThreads = 512;
// Blocks of kRowBlockThreads that share the rows out in the backward (smaller ones: in proportion);
// each writes one row of dweight's partial sums.
constexpr int64_t kPartialBlocks = 264;

struct RowThreads {
  RowThreads(int64_t dim, int held) {
    const int64_t warp_dim = int64_t{held} * kWarpThreads;
    const int64_t warps =
        std::min<int64_t>((dim + warp_dim - 1) / warp_dim, kMaxThreads / kWarpThreads);
    x = static_cast<unsigned>(std::bit_ceil(static_cast<uint64_t>(warps)) * kWarpThreads);
    y = x == kWarpThreads ? kRowBlockThreads / kWarpThreads : 1;
  }
  unsigned x, y;
};

// Blocks of the backward.
int64_t NumPartials(int64_t tokens, const RowThreads& threads) {
  const int64_t per_block = std::max(1u, kRowBlockThreads / (threads.x * threads.y));
  return std::min((tokens + threads.y - 1) / threads.y, kPartialBlocks * per_block);
}

template <class A>
__device__ __forceinline__ A InverseSqrt(A x) {
  return A{1} / SquareRoot(x);
}

// What a thread holds of the part of a row that begins at `part`: vectors a block's width apart.
template <class T, int kVector>
struct RowPart {
  static constexpr int kVectors = kHeld<T, kVector> / kVector;
  static constexpr int kPair = sizeof(T) == 2 && kVector > 1 ? 2 : 1;
  static constexpr int kWords = kVector / kPair;
  using Word = std::conditional_t<kPair == 2, uint32_t, T>;

  static __device__ __forceinline__ int64_t Begin(int64_t part, int k) {
    return part + (int64_t{k} * blockDim.x + threadIdx.x) * kVector;
  }
  // Zeros past `dim`.
  __device__ __forceinline__ void Load(const T* row, int64_t part, int64_t dim) {
    PLAIT_UNROLL
    for (int k = 0; k < kVectors; ++k) {
      const int64_t d = Begin(part, k);
      if (d + kVector <= dim) {
        LoadVector(reinterpret_cast<const Word*>(row + d), kWords, words[k]);
      } else {
        T elements[kVector];
        LoadVector(row + d, dim - d, elements);
        Set(k, elements);
      }
    }
  }
  // Of vector k.
  __device__ __forceinline__ void Get(int k, T (&to)[kVector]) const {
    PLAIT_UNROLL
    for (int i = 0; i < kVector; ++i) {
      if constexpr (kPair == 2) {
        to[i].bits = static_cast<uint16_t>(words[k][i / 2] >> (i % 2 * 16));
      } else {
        to[i] = words[k][i];
      }
    }
  }
  __device__ __forceinline__ void Set(int k, const T (&from)[kVector]) {
    PLAIT_UNROLL
    for (int i = 0; i < kWords; ++i) {
      if constexpr (kPair == 2) {
        words[k][i] = from[2 * i].bits | static_cast<uint32_t>(from[2 * i + 1].bits) << 16;
      } else {
        words[k][i] = from[i];
      }
    }
  }

  Word words[kVectors][kWords] = {};
};

// T: of x and y; W: of the weight.
template <class T, class W, int kVector>
__global__ void __launch_bounds__(kMaxThreads) ForwardKernel(RmsNormForwardArgs args) {
  using A = Accumulator<T>;
  using Part = RowPart<T, kVector>;
  const int64_t t = TeamRow(), dim = args.x.columns;
  const int64_t part_dim = int64_t{blockDim.x} * kHeld<T, kVector>;
  if (t >= args.x.rows) return;
  const T* x = args.x.row<T>(t);
  const T* residual = args.residual ? args.residual.row<T>(t) : nullptr;
  T* sum = args.residual ? args.sum.row<T>(t) : nullptr;
  Part held;  // of r, of the last part read
  A square_sum = 0, x_square_sum = 0, x_max = 0;
  for (int64_t part = 0; part < dim; part += part_dim) {
    Part before;
    held.Load(x, part, dim);
    if (residual != nullptr) before.Load(residual, part, dim);
    PLAIT_UNROLL
    for (int k = 0; k < Part::kVectors; ++k) {
      T r[kVector], addend[kVector];
      held.Get(k, r);
      before.Get(k, addend);
      PLAIT_UNROLL
      for (int i = 0; i < kVector; ++i) {
        const A value = Load(r[i]), magnitude = Magnitude(value);
        x_square_sum += value * value;
        x_max = magnitude > x_max ? magnitude : x_max;
        if (residual != nullptr) r[i] = Round<T>(Load(addend[i]) + value);
        square_sum += Load(r[i]) * Load(r[i]);
      }
      if (residual == nullptr) continue;
      held.Set(k, r);
      const int64_t d = Part::Begin(part, k);
      StoreVector(r, dim - d, sum + d);
    }
  }
  square_sum = TeamSum(square_sum);
  const A s = InverseSqrt(square_sum / static_cast<A>(dim) + static_cast<A>(args.epsilon));
  const W* weight = args.weight.as<W>();
  T* y = args.y.row<T>(t);
  for (int64_t part = 0; part < dim; part += part_dim) {
    if (dim > part_dim) held.Load(residual != nullptr ? sum : x, part, dim);
    PLAIT_UNROLL
    for (int k = 0; k < Part::kVectors; ++k) {
      const int64_t d = Part::Begin(part, k);
      W factors[kVector];
      T r[kVector];
      LoadVector(weight + d, dim - d, factors);
      held.Get(k, r);
      PLAIT_UNROLL
      for (int i = 0; i < kVector; ++i) {
        r[i] = Round<T>(static_cast<A>(Load(factors[i])) * Load(r[i]) * s);
      }
      StoreVector(r, dim - d, y + d);
    }
  }
  if (args.inverse_rms && threadIdx.x == 0) args.inverse_rms.as<A>()[t] = s;
  if (args.activation_square_sum) {
    const A all = TeamSum(x_square_sum);
    if (threadIdx.x == 0) args.activation_square_sum.as<A>()[t] = all;
  }
  if (args.activation_absolute_max) {
    const A all = TeamMax(x_max);
    if (threadIdx.x == 0) args.activation_absolute_max.as<A>()[t] = all;
  }
}

// partial = the sum over the block's teams of what their threads keep of dweight, in the order of
// the teams. All of the block must call.
template <class T, int kVector>
__device__ __forceinline__ void StorePartial(
    const Accumulator<T> (&own)[RowPart<T, kVector>::kVectors][kVector], int64_t dim,
    Accumulator<T>* partial) {
  constexpr int kWarpDim = kHeld<T, kVector> * kWarpThreads;
  PLAIT_SHARED(Accumulator<T>, joined, kWarpDim);  // where teams are warps
  for (unsigned team = 0; team < blockDim.y; ++team) {
    if (team == threadIdx.y) {
      PLAIT_UNROLL
      for (int k = 0; k < RowPart<T, kVector>::kVectors; ++k) {
        PLAIT_UNROLL
        for (int i = 0; i < kVector; ++i) {
          const int64_t d = RowPart<T, kVector>::Begin(0, k) + i;
          if (d >= dim) continue;
          const auto sum = team == 0 ? own[k][i] : joined[d] + own[k][i];
          if (team + 1 < blockDim.y) {
            joined[d] = sum;
          } else {
            partial[d] = sum;
          }
        }
      }
    }
    if (blockDim.y > 1) __syncthreads();
  }
}

// The teams of all blocks take rows in turn. Each thread keeps dweight of its columns, where rows
// are held, else adds to it in the block's row of `partial` [blocks, dim].
template <class T, class W, int kVector>
__global__ void __launch_bounds__(kMaxThreads)
    BackwardKernel(RmsNormBackwardArgs args, Accumulator<T>* partial) {
  using A = Accumulator<T>;
  using Part = RowPart<T, kVector>;
  const int64_t tokens = args.r.rows, dim = args.r.columns;
  const int64_t part_dim = int64_t{blockDim.x} * kHeld<T, kVector>;
  const bool is_held = dim <= part_dim;
  const W* weight = args.weight.as<W>();
  A* block_partial = partial + int64_t{blockIdx.x} * dim;
  A dweight[Part::kVectors][kVector] = {};
  const int64_t teams = int64_t{gridDim.x} * blockDim.y;
  for (int64_t t = TeamRow(); t < tokens; t += teams) {
    const T* const dr_in_row = args.dr_in ? args.dr_in.row<T>(t) : nullptr;
    const A s = args.inverse_rms.as<A>()[t];
    Part dy, r, dr_in;  // of the last part read
    A product = 0;
    for (int64_t part = 0; part < dim; part += part_dim) {
      dy.Load(args.dy.row<T>(t), part, dim);
      r.Load(args.r.row<T>(t), part, dim);
      // On its way while the block adds up.
      if (is_held && dr_in_row != nullptr) dr_in.Load(dr_in_row, part, dim);
      PLAIT_UNROLL
      for (int k = 0; k < Part::kVectors; ++k) {
        const int64_t d = Part::Begin(part, k);
        W factors[kVector];
        T dy_k[kVector], r_k[kVector];
        LoadVector(weight + d, dim - d, factors);
        dy.Get(k, dy_k);
        r.Get(k, r_k);
        PLAIT_UNROLL
        for (int i = 0; i < kVector; ++i) {
          product += Load(dy_k[i]) * static_cast<A>(Load(factors[i])) * Load(r_k[i]);
        }
      }
    }
    const A mean = TeamSum(product) / static_cast<A>(dim);
    for (int64_t part = 0; part < dim; part += part_dim) {
      if (!is_held) {
        dy.Load(args.dy.row<T>(t), part, dim);
        r.Load(args.r.row<T>(t), part, dim);
        if (dr_in_row != nullptr) dr_in.Load(dr_in_row, part, dim);
      }
      PLAIT_UNROLL
      for (int k = 0; k < Part::kVectors; ++k) {
        const int64_t d = Part::Begin(part, k);
        W factors[kVector];
        T dy_k[kVector], r_k[kVector], dr_k[kVector];
        LoadVector(weight + d, dim - d, factors);
        dy.Get(k, dy_k);
        r.Get(k, r_k);
        dr_in.Get(k, dr_k);  // zeros where there is none
        PLAIT_UNROLL
        for (int i = 0; i < kVector; ++i) {
          const A dy_d = Load(dy_k[i]), r_d = Load(r_k[i]);
          const A g = dy_d * static_cast<A>(Load(factors[i]));
          dr_k[i] = Round<T>(Load(dr_k[i]) + s * (g - r_d * s * s * mean));
          if (is_held) {
            dweight[k][i] += dy_d * r_d * s;
          } else if (d + i < dim) {
            const A before = t == TeamRow() ? A{0} : block_partial[d + i];
            block_partial[d + i] = before + dy_d * r_d * s;
          }
        }
        StoreVector(dr_k, dim - d, args.dr.row<T>(t) + d);
      }
    }
  }
  if (is_held) StorePartial<T, kVector>(dweight, dim, block_partial);
}

// Statistics are kept in the dtype that goes with x.
std::string Accepts(DType x, DType weight, DType statistics) {
  if (!IsFloating(x) || !IsFloating(weight)) return "dtypes other than bf16, f32 and f64";
  if (weight != x && weight != StatisticsDType(x)) return "a weight of another precision";
  if (statistics != StatisticsDType(x)) return "statistics of another precision";
  return "";
}

// body(TypeTag<T>, TypeTag<W>).
template <class Body>
auto Dispatch(DType x, DType weight, Body&& body) {
  return DispatchFloating(x, [&](auto t) {
    using T = typename decltype(t)::Type;
    if constexpr (std::is_same_v<T, BFloat16>) {
      if (weight == DType::kF32) return body(t, TypeTag<float>());
    }
    return body(t, t);
  });
}

}  // namespace

std::string AcceptsRmsNormForward(const RmsNormForwardArgs& args) {
  for (const VectorView& view :
       {args.inverse_rms, args.activation_square_sum, args.activation_absolute_max}) {
    if (view && view.dtype != StatisticsDType(args.x.dtype)) {
      return "statistics of another precision";
    }
  }
  return Accepts(args.x.dtype, args.weight.dtype, StatisticsDType(args.x.dtype));
}

absl::Status RmsNormForward(Execution& execution, const RmsNormForwardArgs& args) {
  return Dispatch(args.x.dtype, args.weight.dtype, [&](auto t, auto w) {
    using T = typename decltype(t)::Type;
    using W = typename decltype(w)::Type;
    constexpr int kVector = kVectorElements<T>;
    const bool aligned = IsAligned(args.x, kVector) && IsAligned(args.residual, kVector) &&
                         IsAligned(args.sum, kVector) && IsAligned(args.weight, kVector) &&
                         IsAligned(args.y, kVector);
    return DispatchVector<kVector>(aligned, [&](auto count) {
      constexpr int kCount = decltype(count)::value;
      const RowThreads threads(args.x.columns, kHeld<T, kCount>);
      const auto blocks = static_cast<unsigned>((args.x.rows + threads.y - 1) / threads.y);
      return ToStatus(LaunchKernel(ForwardKernel<T, W, kCount>, {blocks}, {threads.x, threads.y}, 0,
                                   execution.compute().handle(), args),
                      "rms_norm forward");
    });
  });
}

std::string AcceptsRmsNormBackward(const RmsNormBackwardArgs& args) {
  if (args.dweight.dtype != StatisticsDType(args.r.dtype)) return "a gradient of another precision";
  return Accepts(args.r.dtype, args.weight.dtype, args.inverse_rms.dtype);
}

absl::Status RmsNormBackward(Execution& execution, const RmsNormBackwardArgs& args) {
  const int64_t tokens = args.r.rows, dim = args.r.columns;
  if (tokens == 0 || dim == 0) return absl::OkStatus();
  return Dispatch(args.r.dtype, args.weight.dtype, [&](auto t, auto w) {
    using T = typename decltype(t)::Type;
    using W = typename decltype(w)::Type;
    using A = Accumulator<T>;
    constexpr int kVector = kVectorElements<T>;
    const bool aligned = IsAligned(args.dy, kVector) && IsAligned(args.r, kVector) &&
                         IsAligned(args.weight, kVector) && IsAligned(args.dr_in, kVector) &&
                         IsAligned(args.dr, kVector);
    return DispatchVector<kVector>(aligned, [&](auto count) -> absl::Status {
      constexpr int kCount = decltype(count)::value;
      const RowThreads threads(dim, kHeld<T, kCount>);
      const int64_t blocks = NumPartials(tokens, threads);
      Tensor partial = execution.Empty(DTypeOf<A>::value, {blocks, dim});
      PLAIT_RETURN_IF_ERROR(
          ToStatus(LaunchKernel(BackwardKernel<T, W, kCount>, {static_cast<unsigned>(blocks)},
                                {threads.x, threads.y}, 0, execution.compute().handle(), args,
                                partial.data<A>()),
                   "rms_norm backward"));
      return AddPartials(execution, partial.data<A>(), blocks, dim, args.dweight.as<A>(),
                         "rms_norm backward");
    });
  });
}

KernelScratch::Blocks RmsNormBackwardScratch(DType dtype, int64_t tokens, int64_t dim) {
  if (tokens == 0 || dim == 0) return {};
  return DispatchFloating(dtype, [&](auto t) -> KernelScratch::Blocks {
    using T = typename decltype(t)::Type;
    const RowThreads threads(dim, kHeld<T, kVectorElements<T>>);
    return {NumPartials(tokens, threads) * dim * static_cast<int64_t>(sizeof(Accumulator<T>))};
  });
}

}  // namespace plait::cuda
