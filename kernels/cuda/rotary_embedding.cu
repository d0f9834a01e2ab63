#include <algorithm>
#include <cmath>
#include <map>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "base/status_macros.h"
#include "kernels/cuda/arithmetic.h"
#include "kernels/cuda/device.h"
#include "kernels/cuda/dispatch.h"
#include "kernels/cuda/rotary_embedding.h"
#include "kernels/cuda/row_threads.h"
#include "kernels/cuda/vector_access.h"

namespace plait::cuda {
namespace {

// Threads that fill the device; a token's heads are shared out where there are fewer.
constexpr int64_t kWantedThreads = 132 * 2048;
// CUDA's limit of blocks along y.
constexpr int64_t kMaxHeadParts = 65535;

// Of an angle in f32: |angle| below 2^31, the rest after whole quarters at most pi / 4, where f32
// rounds it by less than a unit of 1.
__device__ __forceinline__ void SineAndCosine(double angle, float* sine, float* cosine) {
  constexpr double kQuartersPerRadian = 0.63661977236758134308;
  // pi / 2 as the double nearest to it and what is left.
  constexpr double kQuarter = 1.57079632679489655800, kQuarterRest = 6.12323399573676603587e-17;
  const double quarters = rint(angle * kQuartersPerRadian);
  const auto rest =
      static_cast<float>(fma(-quarters, kQuarterRest, fma(-quarters, kQuarter, angle)));
  const float s = sinf(rest), c = cosf(rest);
  const auto quadrant = static_cast<unsigned>(static_cast<int64_t>(quarters)) % 4;
  const float low = quadrant % 2 == 0 ? s : c, high = quadrant % 2 == 0 ? c : s;
  *sine = quadrant >= 2 ? -low : low;
  *cosine = quadrant == 1 || quadrant == 2 ? -high : high;
}
__device__ __forceinline__ void SineAndCosine(double angle, double* sine, double* cosine) {
  *sine = sin(angle);
  *cosine = cos(angle);
}

// Blocks (vectors of half a head) x (tokens), and along y parts of a token's heads.
template <class T, int kVector>
__global__ void __launch_bounds__(kRowBlockThreads)
    RotaryKernel(RotaryEmbeddingArgs args, const double* frequencies, int64_t heads_of_part,
                 unsigned column_blocks) {
  using A = Accumulator<T>;
  const MatrixPlace place(column_blocks);
  const int64_t half = args.head_dim / 2, j = place.vector * kVector, count = half - j;
  if (place.row >= args.x.rows || count <= 0) return;
  const double position = args.positions[place.row];
  A cosine[kVector], sine[kVector];
  PLAIT_UNROLL
  for (int i = 0; i < kVector; ++i) {
    SineAndCosine(i < count ? position * frequencies[j + i] : 0.0, &sine[i], &cosine[i]);
    if (args.direction == RotaryDirection::kBackward) sine[i] = -sine[i];
  }
  const int64_t begin = blockIdx.y * heads_of_part;
  const int64_t end = begin + heads_of_part < args.heads ? begin + heads_of_part : args.heads;
  T* row = args.x.row<T>(place.row) + j;
  for (int64_t h = begin; h < end; ++h) {
    T low[kVector], high[kVector];
    LoadVector(row + h * args.head_dim, count, low);
    LoadVector(row + h * args.head_dim + half, count, high);
    PLAIT_UNROLL
    for (int i = 0; i < kVector; ++i) {
      const A a = Load(low[i]), b = Load(high[i]);
      low[i] = Round<T>(a * cosine[i] - b * sine[i]);
      high[i] = Round<T>(b * cosine[i] + a * sine[i]);
    }
    StoreVector(low, count, row + h * args.head_dim);
    StoreVector(high, count, row + h * args.head_dim + half);
  }
}

// theta^(-2 j / head_dim), j < head_dim / 2, on the device, per (head_dim, theta).
class RotaryFrequencies {
 public:
  absl::StatusOr<const double*> Get(Execution& execution, int64_t head_dim, double theta) {
    const auto [entry, is_new] = frequencies_.try_emplace({head_dim, theta});
    Tensor& on_device = entry->second;
    if (is_new) {
      std::vector<double> frequencies;
      for (int64_t j = 0; j < head_dim / 2; ++j) {
        frequencies.push_back(
            std::pow(theta, -2.0 * static_cast<double>(j) / static_cast<double>(head_dim)));
      }
      on_device = execution.Empty(DType::kF64, {head_dim / 2});
      PLAIT_RETURN_IF_ERROR(execution.Send(frequencies.data(), on_device));
    }
    return on_device.data<double>();
  }

 private:
  std::map<std::pair<int64_t, double>, Tensor> frequencies_;
};

}  // namespace

std::string AcceptsRotaryEmbedding(const RotaryEmbeddingArgs& args) {
  return IsFloating(args.x.dtype) ? "" : "dtypes other than bf16, f32 and f64";
}

absl::Status RotaryEmbedding(Execution& execution, const RotaryEmbeddingArgs& args) {
  if (args.x.rows == 0 || args.heads == 0) return absl::OkStatus();
  PLAIT_ASSIGN_OR_RETURN(
      const double* const frequencies,
      execution.Cache<RotaryFrequencies>().Get(execution, args.head_dim, args.theta));
  return DispatchFloating(args.x.dtype, [&](auto t) {
    using T = typename decltype(t)::Type;
    constexpr int kVector = kVectorElements<T>;
    const int64_t half = args.head_dim / 2;
    const bool aligned = IsAligned(args.x, kVector) && half % kVector == 0;
    return DispatchVector<kVector>(aligned, [&](auto count) {
      constexpr int kCount = decltype(count)::value;
      const int64_t vectors = (half + kCount - 1) / kCount;
      const MatrixTiling tiling(args.x.rows, vectors);
      const int64_t wanted_parts = (kWantedThreads - 1) / (args.x.rows * vectors) + 1;
      const int64_t parts = std::min({wanted_parts, args.heads, kMaxHeadParts});
      const int64_t heads_of_part = (args.heads + parts - 1) / parts;
      return ToStatus(
          LaunchKernel(RotaryKernel<T, kCount>, {tiling.blocks, static_cast<unsigned>(parts)},
                       {tiling.threads_x, tiling.threads_y}, 0, execution.compute().handle(), args,
                       frequencies, heads_of_part, tiling.column_blocks),
          "rotary_embedding");
    });
  });
}

}  // namespace plait::cuda
