// What the scan's forward and backward share: the layout of a line of channels in scratch memory,
// loading it, and one step of the recurrence. Included once per target by Highway's foreach_target.
#if defined(PLAIT_KERNELS_CPU_SELECTIVE_SCAN_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef PLAIT_KERNELS_CPU_SELECTIVE_SCAN_INL_H_
#undef PLAIT_KERNELS_CPU_SELECTIVE_SCAN_INL_H_
#else
#define PLAIT_KERNELS_CPU_SELECTIVE_SCAN_INL_H_
#endif

#include <algorithm>

#include "hwy/cache_control.h"
#include "kernels/cpu/exponential-inl.h"
#include "kernels/cpu/selective_scan_segments.h"

HWY_BEFORE_NAMESPACE();
namespace plait::cpu::HWY_NAMESPACE {

// Tokens of a tile.
inline constexpr int64_t kTile = kSelectiveScanCheckpointTokens;
// Channels worked on together: 64 bytes of bf16, so that every memory line is used whole. A lane is
// a channel.
inline constexpr int64_t kLine = 32;
inline constexpr int64_t kLanes = hn::MaxLanes(F32Tag());
inline constexpr int64_t kVectors = kLine / kLanes;
static_assert(kLine % kLanes == 0);
// States are padded with A = B = C = 0 to whole blocks of registers.
inline constexpr int64_t kStateBlock = 4;
inline constexpr int64_t PaddedStates(int64_t states) {
  return (states + kStateBlock - 1) / kStateBlock * kStateBlock;
}

// Scratch of one quantity over a tile and a line, [vectors, tokens, lanes]: a vector's walk through
// time is contiguous.
inline constexpr int64_t kTileLine = kTile * kLine;
inline constexpr int64_t At(int64_t vector, int64_t t) { return (vector * kTile + t) * kLanes; }

// Channels [channel, channel + count) of the microbatch, count <= kLine. Lanes past the end read as
// zero, which keeps their h and gradients zero, and are not written.
struct Line {
  int64_t channel, count;

  int64_t vectors() const { return (count + kLanes - 1) / kLanes; }
  int64_t lanes(int64_t vector) const { return std::min(kLanes, count - vector * kLanes); }

  template <class T>
  F32 Load(const T* row, int64_t vector) const {
    const T* from = row + channel + vector * kLanes;
    if (HWY_LIKELY(lanes(vector) == kLanes)) return LoadF32(F32Tag(), from);
    return LoadF32N(F32Tag(), from, static_cast<size_t>(lanes(vector)));
  }
  template <class T>
  void Store(F32 value, T* row, int64_t vector) const {
    T* to = row + channel + vector * kLanes;
    if (HWY_LIKELY(lanes(vector) == kLanes)) return StoreF32(F32Tag(), value, to);
    StoreF32N(F32Tag(), value, to, static_cast<size_t>(lanes(vector)));
  }
  // Rows are far apart, so the processor does not foresee the next one.
  template <class T>
  void Prefetch(const T* row) const {
    const char* from = reinterpret_cast<const char*>(row + channel);
    for (int64_t byte = 0; byte < count * static_cast<int64_t>(sizeof(T)); byte += 64) {
      hwy::Prefetch(from + byte);
    }
  }
};

// A line with all of its channels: the same without a choice per vector, for the loops over every
// token.
struct WholeLine {
  explicit WholeLine(const Line& line) : channel(line.channel) {}
  int64_t channel;

  static constexpr int64_t vectors() { return kVectors; }

  template <class T>
  F32 Load(const T* row, int64_t vector) const {
    return LoadF32(F32Tag(), row + channel + vector * kLanes);
  }
  template <class T>
  void Store(F32 value, T* row, int64_t vector) const {
    StoreF32(F32Tag(), value, row + channel + vector * kLanes);
  }
  template <class T>
  void Prefetch(const T* row) const {
    Line{channel, kLine}.Prefetch(row);
  }
};

// A log2(e) of a line, [padded states, kLine]: exp(delta A) = 2^(delta a2).
inline void LoadDecayRates(const ConstMatrixView& a_logs, const Line& line, float* a2) {
  const F32Tag d;
  const int64_t states = a_logs.columns;
  std::fill(a2, a2 + PaddedStates(states) * kLine, 0.0f);
  HWY_ALIGN float values[kLanes];
  for (int64_t channel = 0; channel < line.count; ++channel) {
    const float* row = a_logs.row<float>(line.channel + channel);
    for (int64_t n = 0; n < states; n += kLanes) {
      const int64_t count = std::min(kLanes, states - n);
      const F32 a_log =
          count == kLanes ? LoadF32(d, row + n) : LoadF32N(d, row + n, static_cast<size_t>(count));
      hn::StoreU(hn::Mul(Exp(d, a_log), hn::Set(d, -kLog2E)), d, values);
      for (int64_t i = 0; i < count; ++i) a2[(n + i) * kLine + channel] = values[i];
    }
  }
}

// Where 2^(delta a2) is a normal number for every state: delta <= this.
inline F32 LargestStep(const float* a2, int64_t padded_states, int64_t vector) {
  const F32Tag d;
  auto largest = hn::Set(d, 1e-30f);
  for (int64_t n = 0; n < padded_states; ++n) {
    largest = hn::Max(largest, hn::Abs(hn::LoadU(d, a2 + n * kLine + vector * kLanes)));
  }
  // A little below the limit: the quotient and the product are rounded.
  return hn::Div(hn::Set(d, kExp2Limit - 0.001f), largest);
}

// Rows [begin, end) of B or C as f32, [tokens, padded states], zero in the padding. Writes up to
// kLanes elements past the last row.
template <class T>
void LoadStateRows(const ConstMatrixView& from, int64_t begin, int64_t end, float* to) {
  const F32Tag d;
  const int64_t states = from.columns, padded = PaddedStates(states);
  for (int64_t t = begin; t < end; ++t, to += padded) {
    const T* row = from.row<T>(t);
    int64_t n = 0;
    for (; n + kLanes <= states; n += kLanes) hn::StoreU(LoadF32(d, row + n), d, to + n);
    if (n < states) {
      hn::StoreU(LoadF32N(d, row + n, static_cast<size_t>(states - n)), d, to + n);
      n += kLanes;
    }
    for (; n < padded; ++n) to[n] = 0.0f;
  }
}
inline void LoadStateRows(const ConstMatrixView& from, int64_t begin, int64_t end, float* to) {
  if (from.dtype == DType::kF32) return LoadStateRows<float>(from, begin, end, to);
  LoadStateRows<BFloat16>(from, begin, end, to);
}

// Scratch of one block of states over a tile and a vector of channels: [tokens, kStateBlock,
// lanes].
inline constexpr int64_t kTileStates = kTile * kStateBlock * kLanes;

// decay = 2^(delta a2) for tokens [begin, end) of the tile, one vector of channels, states [n, n +
// kStateBlock). On its own rather than inside the recurrence, so that the processor overlaps the
// exponentials of many tokens. Clamped: for any exponent, a decay below 2^-126 becomes that; equal
// bits where both may be used. delta: [tokens, lanes].
template <bool kClamped>
HWY_NOINLINE void Decays(const float* a2_line, const float* delta, int64_t vector, int64_t n,
                         int64_t begin, int64_t end, float* decay) {
  const F32Tag d;
  F32 a2[kStateBlock];
  for (int s = 0; s < kStateBlock; ++s) {
    a2[s] = hn::LoadU(d, a2_line + (n + s) * kLine + vector * kLanes);
  }
  for (int64_t t = begin; t < end; ++t) {
    const F32 step = hn::LoadU(d, delta + t * kLanes);
    for (int s = 0; s < kStateBlock; ++s) {
      F32 exponent = hn::Mul(step, a2[s]);
      if constexpr (kClamped) exponent = hn::Max(exponent, hn::Set(d, -kExp2Limit));
      hn::StoreU(Exp2(d, exponent), d, decay + (t * kStateBlock + s) * kLanes);
    }
  }
}

// NOLINTNEXTLINE(google-readability-namespace-comments)
}  // namespace plait::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // per-target include guard
