// What the kernels of the selective scan have in common: a thread is a channel, a block its
// neighbours over one segment of time.
#pragma once

#include <cstdint>
#include <type_traits>

#include "kernels/cuda/device.h"
#include "kernels/cuda/documents.h"
#include "kernels/cuda/logistic.h"
#include "kernels/cuda/selective_scan_segments.h"

namespace plait::cuda {

// Rows of B and C that a block holds at a time, and tokens that a thread loads at a time.
inline constexpr int kScanTile = static_cast<int>(kSelectiveScanCheckpointTokens);
inline constexpr int kScanStep = 8;
// States that are computed side by side; their number is padded with zeros to a multiple of it.
inline constexpr int kScanStates = 4;

constexpr int64_t PaddedStates(int64_t states) {
  return (states + kScanStates - 1) / kScanStates * kScanStates;
}

__device__ __forceinline__ float ScanExp2(float x) { return FlushedExp2(x); }
__device__ __forceinline__ double ScanExp2(double x) { return exp2(x); }

// max(x, 0) + log(1 + u) with u = exp(-|x|), log(1 + u) = 2 atanh(s), s = u / (2 + u) <= 1/3, as s
// times a polynomial of s^2 (relative error 4e-9): small results keep their relative precision, and
// above 20 the sum is x itself.
__device__ __forceinline__ float Softplus(float x) {
  const float u = FlushedExp2(static_cast<float>(-kLog2E) * fabsf(x));
  const float s = FastDivide(u, 2.0f + u), q = s * s;
  float p = 0.2817833512f * q + 0.2796060271f;
  p = p * q + 0.4002491029f;
  p = p * q + 0.6666631468f;
  p = p * q + 2.0f;
  return s * p + (x > 0.0f ? x : 0.0f);
}
__device__ __forceinline__ double Softplus(double x) { return x > 20.0 ? x : log1p(exp(x)); }

// A log2(e), so that exp(delta A) is a power of two.
__device__ __forceinline__ float DecayExponent(float a_log) {
  return static_cast<float>(-kLog2E) * expf(a_log);
}
__device__ __forceinline__ double DecayExponent(double a_log) { return -kLog2E * exp(a_log); }

// A number for each state of a thread's channel: in registers where their number is known, else in
// a column of shared memory, `stride` elements from one to the next.
template <class A, int kStates>
struct StateColumn {
  __device__ __forceinline__ StateColumn(A* /*column*/, int /*stride*/) {}
  __device__ __forceinline__ A& operator[](int n) { return values[n]; }
  A values[kStates];
};
template <class A>
struct StateColumn<A, 0> {
  __device__ __forceinline__ StateColumn(A* column_in, int stride_in)
      : column(column_in), stride(stride_in) {}
  __device__ __forceinline__ A& operator[](int n) { return column[n * stride]; }
  A* column;
  int stride;
};

// kScanStates neighbours of a row in shared memory.
template <class A>
struct FourStates {
  __device__ __forceinline__ explicit FourStates(const A* row) {
    constexpr int kPack = 16 / static_cast<int>(sizeof(A));
    PLAIT_UNROLL
    for (int n = 0; n < kScanStates; n += kPack) {
      const auto pack = *reinterpret_cast<const Pack<A, kPack>*>(row + n);
      PLAIT_UNROLL
      for (int i = 0; i < kPack; ++i) values[n + i] = pack.values[i];
    }
  }
  A values[kScanStates];
};

// What a thread works at.
struct ScanPlace {
  int64_t segment, begin, end;  // tokens [begin, end)
  int64_t channel;              // the last one again for threads beyond it, which store nothing
  bool active;
};
__device__ __forceinline__ ScanPlace TakeScanPlace(const ScanSegments& segments, int64_t channels) {
  ScanPlace place;
  place.segment = blockIdx.y;
  place.begin = segments.begin(place.segment);
  place.end = segments.end(place.segment);
  const int64_t channel = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  place.active = channel < channels;
  place.channel = place.active ? channel : channels - 1;
  return place;
}

// exponents[n] of the channel, zero in the padding.
template <class A, class Column>
__device__ __forceinline__ void LoadDecayExponents(const ConstMatrixView& a_log, int64_t channel,
                                                   int states, int padded, Column& exponents) {
  const A* row = a_log.row<A>(channel);
  PLAIT_UNROLL
  for (int n = 0; n < padded; ++n) exponents[n] = n < states ? DecayExponent(row[n]) : A{0};
}

// States `first`, first + 1, ... of a matrix [rows, channels], zero where it is absent, and in the
// padding.
template <class A, class Column>
__device__ __forceinline__ void LoadStates(const ConstMatrixView& from, int64_t first,
                                           const ScanPlace& place, int states, int padded,
                                           Column& to) {
  PLAIT_UNROLL
  for (int n = 0; n < padded; ++n) {
    to[n] = from && place.active && n < states ? from.row<A>(first + n)[place.channel] : A{0};
  }
}
template <class A, class Column>
__device__ __forceinline__ void StoreStates(const MatrixView& to, int64_t first,
                                            const ScanPlace& place, int states, Column& from) {
  if (!to || !place.active) return;
  PLAIT_UNROLL
  for (int n = 0; n < states; ++n) to.row<A>(first + n)[place.channel] = from[n];
}

// Rows of B or C on their way to shared memory: [kScanTile, padded states], zero in the padding and
// beyond the last row. Where the number of states is known, a block of kScanThreads has them loaded
// into registers before it needs them.
template <class T, int kStates>
struct StateRows {
  using A = Accumulator<T>;

  __device__ __forceinline__ void Load(const ConstMatrixView& from, int64_t begin, int64_t end) {
    PLAIT_UNROLL
    for (int i = 0; i < kEarly; ++i) early[i] = Element(from, begin, end, Index(i));
  }
  // After Load with the same arguments. Between barriers.
  __device__ __forceinline__ void Store(const ConstMatrixView& from, int64_t begin, int64_t end,
                                        A* to) const {
    PLAIT_UNROLL
    for (int i = 0; i < kEarly; ++i) to[Index(i)] = cuda::Load(early[i]);
    const int count = kScanTile * static_cast<int>(PaddedStates(from.columns));
    for (int i = Index(kEarly); i < count; i += static_cast<int>(blockDim.x)) {
      to[i] = cuda::Load(Element(from, begin, end, i));
    }
  }

  static constexpr int kEarly = kScanTile * kStates / static_cast<int>(kScanThreads);
  T early[kEarly > 0 ? kEarly : 1];

 private:
  static __device__ __forceinline__ int Index(int i) {
    return static_cast<int>(threadIdx.x) + i * static_cast<int>(blockDim.x);
  }
  static __device__ __forceinline__ T Element(const ConstMatrixView& from, int64_t begin,
                                              int64_t end, int index) {
    const int padded = kStates > 0 ? kStates : static_cast<int>(PaddedStates(from.columns));
    const int row = index / padded, n = index % padded;
    return begin + row < end && n < from.columns ? from.row<T>(begin + row)[n] : T{};
  }
};

// kScanStep tokens of a channel from token t on; those outside [begin, end) repeat another one.
template <class T>
__device__ __forceinline__ void LoadTokens(const ConstMatrixView& from, int64_t channel, int64_t t,
                                           int64_t begin, int64_t end, T (&to)[kScanStep]) {
  PLAIT_UNROLL
  for (int i = 0; i < kScanStep; ++i) {
    int64_t row = t + i < end ? t + i : end - 1;
    row = row < begin ? begin : row;
    to[i] = from.row<T>(row)[channel];
  }
}

// body(std::integral_constant<int, number of states, or 0: any>).
template <class Body>
auto DispatchStates(int64_t states, Body&& body) {
  if (states == 16) return body(std::integral_constant<int, 16>());
  if (states == 8) return body(std::integral_constant<int, 8>());
  return body(std::integral_constant<int, 0>());
}

// Threads of a block and its dynamic shared memory.
struct ScanBlock {
  int threads;
  size_t shared_bytes;
};

// As many threads, up to kScanThreads, as there are channels for and as shared memory allows; 0
// threads where it does not allow a warp. bytes(threads): what they need.
template <class Bytes>
ScanBlock MakeScanBlock(int64_t channels, Bytes&& bytes) {
  constexpr size_t kMostShared = 227 << 10;
  int threads = static_cast<int>(kScanThreads);
  while (threads > 32 && (bytes(threads) > kMostShared || threads / 2 >= channels)) threads /= 2;
  if (bytes(threads) > kMostShared) return {0, 0};
  return {threads, bytes(threads)};
}

inline constexpr const char* kTooManyStates = "more states than shared memory has room for";

}  // namespace plait::cuda
