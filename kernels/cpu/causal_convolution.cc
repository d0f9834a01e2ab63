#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/causal_convolution.cc"
#include "hwy/foreach_target.h"
// foreach_target first: it includes this file once per target.
#include <algorithm>

#include "hwy/cache_control.h"
#include "kernels/cpu/causal_convolution.h"
#include "kernels/cpu/exponential-inl.h"

HWY_BEFORE_NAMESPACE();
namespace plait::cpu::HWY_NAMESPACE {

inline constexpr int64_t kLanes = hn::MaxLanes(F32Tag());
// Channels of a thread's block and tokens of a tile: vectors of the block take turns over a tile,
// so that the lines of memory one of them has fetched are still in the first cache for the next.
inline constexpr int64_t kBlock = 64;
inline constexpr int64_t kTile = 64;
static_assert(kBlock % kLanes == 0);

// The first `count` channels from `channel` on; a vector is whole where count == kLanes. Lanes
// beyond read as zero and are not written.
struct Lanes {
  int64_t channel, count;

  template <class T>
  F32 Load(const T* row) const {
    if (HWY_LIKELY(count == kLanes)) return LoadF32(F32Tag(), row + channel);
    return LoadF32N(F32Tag(), row + channel, static_cast<size_t>(count));
  }
  template <class T>
  void Store(F32 value, T* row) const {
    if (HWY_LIKELY(count == kLanes)) return StoreF32(F32Tag(), value, row + channel);
    StoreF32N(F32Tag(), value, row + channel, static_cast<size_t>(count));
  }
  template <class T>
  void Prefetch(const T* row) const {
    hwy::Prefetch(row + channel);
  }
};

// Taps and bias of a block of channels as f32: [kWidth, kBlock] and [kBlock].
template <int kWidth>
struct Taps {
  Taps(const ConstMatrixView& weight, const ConstVectorView& bias, int64_t begin, int64_t end) {
    std::fill(&taps[0][0], &taps[0][0] + kWidth * kBlock, 0.0f);
    std::fill(biases, biases + kBlock, 0.0f);
    for (int64_t channel = begin; channel < end; ++channel) {
      for (int j = 0; j < kWidth; ++j) {
        taps[j][channel - begin] = weight.dtype == DType::kF32
                                       ? weight.row<float>(channel)[j]
                                       : static_cast<float>(weight.row<BFloat16>(channel)[j]);
      }
      if (!bias) continue;
      biases[channel - begin] = bias.dtype == DType::kF32
                                    ? bias.as<float>()[channel]
                                    : static_cast<float>(bias.as<BFloat16>()[channel]);
    }
  }

  HWY_ALIGN float taps[kWidth][kBlock];
  HWY_ALIGN float biases[kBlock];
};

// bias + sum_j tap[j] window[j], oldest input first.
template <int kWidth>
HWY_INLINE F32 Convolve(const F32* taps, F32 bias, const F32* window) {
  F32 sum = bias;
  for (int j = 0; j < kWidth; ++j) sum = hn::MulAdd(taps[j], window[j], sum);
  return sum;
}

// Tokens [t, end) of a document that starts at `begin`, one vector of channels.
template <class T, int kWidth>
void ForwardLanes(const CausalConvolutionForwardArgs& args, const Taps<kWidth>& block, int64_t at,
                  const Lanes& lanes, int64_t document, int64_t begin, int64_t t, int64_t end) {
  const F32Tag d;
  F32 taps[kWidth], window[kWidth];
  for (int j = 0; j < kWidth; ++j) taps[j] = hn::LoadU(d, block.taps[j] + at);
  const F32 bias = hn::LoadU(d, block.biases + at);
  for (int j = 0; j < kWidth - 1; ++j) {
    const int64_t row = t - (kWidth - 1) + j;
    if (row >= begin) {
      window[j + 1] = lanes.Load(args.x.row<T>(row));
    } else if (args.initial_state) {
      const int64_t last = (document + 1) * (kWidth - 1);
      window[j + 1] = lanes.Load(args.initial_state.row<T>(last + row - begin));
    } else {
      window[j + 1] = hn::Zero(d);
    }
  }
  for (; t < end; ++t) {
    for (int j = 0; j < kWidth - 1; ++j) window[j] = window[j + 1];
    window[kWidth - 1] = lanes.Load(args.x.row<T>(t));
    // Rows are far apart, so the processor does not foresee the next one.
    lanes.Prefetch(args.x.row<T>(std::min(t + kTile, args.x.rows - 1)));
    lanes.Prefetch(args.y.row<T>(std::min(t + kTile, args.x.rows - 1)));
    const F32 pre = Convolve<kWidth>(taps, bias, window);
    lanes.Store(hn::Mul(pre, Logistic(d, pre)), args.y.row<T>(t));
  }
}

// Row j takes an older row (of initial_state, perhaps the same memory) or one of x: in order.
template <class T>
void StoreState(const CausalConvolutionForwardArgs& args, const Lanes& lanes, int64_t document,
                int64_t begin, int64_t end) {
  const int64_t history = args.weight.columns - 1;
  for (int64_t j = 0; j < history; ++j) {
    const int64_t row = end - history + j;
    F32 input = hn::Zero(F32Tag());
    if (row >= begin) {
      input = lanes.Load(args.x.row<T>(row));
    } else if (args.initial_state) {
      input = lanes.Load(args.initial_state.row<T>((document + 1) * history + row - begin));
    }
    lanes.Store(input, args.final_state.row<T>(document * history + j));
  }
}

template <class T, int kWidth>
void ForwardBlock(const CausalConvolutionForwardArgs& args, int64_t channel) {
  const int64_t channel_end = std::min(channel + kBlock, args.x.columns);
  const Taps<kWidth> block(args.weight, args.bias, channel, channel_end);
  for (int64_t document = 0; document < args.documents; ++document) {
    const int64_t begin = args.document_offsets[document];
    const int64_t end = args.document_offsets[document + 1];
    for (int64_t t = begin; t < end; t += kTile) {
      for (int64_t c = channel; c < channel_end; c += kLanes) {
        const Lanes lanes{c, std::min(kLanes, channel_end - c)};
        ForwardLanes<T, kWidth>(args, block, c - channel, lanes, document, begin, t,
                                std::min(t + kTile, end));
      }
    }
    if (!args.final_state) continue;
    for (int64_t c = channel; c < channel_end; c += kLanes) {
      StoreState<T>(args, {c, std::min(kLanes, channel_end - c)}, document, begin, end);
    }
  }
}

// Gradients of a block's parameters, summed over time: [kWidth, kBlock] and [kBlock].
template <int kWidth>
struct ParameterSums {
  HWY_ALIGN float taps[kWidth][kBlock] = {};
  HWY_ALIGN float biases[kBlock] = {};
};

// A document at rows [begin, end).
struct DocumentRows {
  int64_t document, begin, end;
};

// Whether documents have states or their gradients. The loop over tokens is compiled for either:
// with the choice inside it takes up to a tenth longer.
enum class States { kAbsent, kPresent };

// Row of x; before the document's first one, of the initial state or zero.
template <class T, int kWidth>
HWY_NOINLINE F32 InputAt(const CausalConvolutionBackwardArgs& args, const Lanes& lanes,
                         const DocumentRows& rows, int64_t row) {
  if (row >= rows.begin) return lanes.Load(args.x.row<T>(row));
  if (!args.initial_state) return hn::Zero(F32Tag());
  const int64_t place = (rows.document + 1) * (kWidth - 1) + row - rows.begin;
  return lanes.Load(args.initial_state.row<T>(place));
}

// Tokens [tile_begin, t] backwards. g holds those of the next kWidth - 1 tokens, nearest first:
// [kWidth - 1] vectors, zero at the document's end.
template <class T, int kWidth, States kStates>
void BackwardLanes(const CausalConvolutionBackwardArgs& args, const Taps<kWidth>& block, int64_t at,
                   const Lanes& lanes, const DocumentRows rows, int64_t tile_begin, int64_t t,
                   float* g_kept, ParameterSums<kWidth>& sums) {
  const F32Tag d;
  F32 taps[kWidth], window[kWidth], dtaps[kWidth], g[kWidth];
  for (int j = 0; j < kWidth; ++j) {
    taps[j] = hn::LoadU(d, block.taps[j] + at);
    window[j] = g[j] = dtaps[j] = hn::Zero(d);
    // The window of token t + 1, less its newest input.
    const int64_t row = t - (kWidth - 1) + j + 1;
    if (j == kWidth - 1) continue;
    window[j] = InputAt<T, kWidth>(args, lanes, rows, row);
    g[j] = hn::LoadU(d, g_kept + j * kBlock + at);
  }
  F32 dbias = hn::Zero(d);
  const F32 bias = hn::LoadU(d, block.biases + at), one = hn::Set(d, 1.0f);
  [[maybe_unused]] const int64_t begin = rows.begin;
  // The first row whose input is in the final state.
  [[maybe_unused]] const int64_t final_begin =
      args.dfinal_state ? rows.end - (kWidth - 1) : rows.end;
  for (; t >= tile_begin; --t) {
    for (int j = kWidth - 1; j > 0; --j) {
      window[j] = window[j - 1];
      g[j] = g[j - 1];
    }
    const int64_t oldest = t - (kWidth - 1);
    if constexpr (kStates == States::kPresent) {
      window[0] = InputAt<T, kWidth>(args, lanes, rows, oldest);
    } else {
      window[0] = oldest >= begin ? lanes.Load(args.x.row<T>(oldest)) : hn::Zero(d);
    }
    for (const ConstMatrixView& view : {args.x, args.dy, ConstMatrixView(args.dx)}) {
      lanes.Prefetch(view.row<T>(std::max<int64_t>(t - kTile, 0)));
    }
    const F32 pre = Convolve<kWidth>(taps, bias, window);
    const F32 sigmoid = Logistic(d, pre);
    const F32 slope = hn::Mul(sigmoid, hn::MulAdd(pre, hn::Sub(one, sigmoid), one));
    g[0] = hn::Mul(lanes.Load(args.dy.row<T>(t)), slope);
    F32 dx = hn::Mul(taps[kWidth - 1], g[0]);
    for (int j = 1; j < kWidth; ++j) dx = hn::MulAdd(taps[kWidth - 1 - j], g[j], dx);
    if constexpr (kStates == States::kPresent) {
      if (HWY_UNLIKELY(t >= final_begin)) {
        const int64_t place = rows.document * (kWidth - 1) + t - final_begin;
        dx = hn::Add(dx, lanes.Load(args.dfinal_state.row<float>(place)));
      }
    }
    lanes.Store(dx, args.dx.row<T>(t));
    for (int j = 0; j < kWidth; ++j) dtaps[j] = hn::MulAdd(g[0], window[j], dtaps[j]);
    dbias = hn::Add(g[0], dbias);
  }
  for (int j = 0; j < kWidth; ++j) {
    float* sum = sums.taps[j] + at;
    hn::StoreU(hn::Add(dtaps[j], hn::LoadU(d, sum)), d, sum);
    if (j < kWidth - 1) hn::StoreU(g[j], d, g_kept + j * kBlock + at);
  }
  hn::StoreU(hn::Add(dbias, hn::LoadU(d, sums.biases + at)), d, sums.biases + at);
}

// The gradient of the inputs before the document. g: of its first kWidth - 1 tokens, as
// BackwardLanes leaves it. Row j takes an older row of the final state's gradient (perhaps the same
// memory): from the newest row on.
template <int kWidth>
HWY_NOINLINE void StoreInitialGradient(const CausalConvolutionBackwardArgs& args,
                                       const Taps<kWidth>& block, int64_t at, const Lanes& lanes,
                                       const DocumentRows& rows, const float* g_kept) {
  const F32Tag d;
  constexpr int64_t kHistory = kWidth - 1;
  const int64_t length = rows.end - rows.begin;
  for (int64_t j = kHistory - 1; j >= 0; --j) {
    // Input j lies kHistory - j tokens before the first one.
    F32 sum = hn::Zero(d);
    for (int64_t token = 0; token <= j; ++token) {
      const F32 tap = hn::LoadU(d, block.taps[j - token] + at);
      sum = hn::MulAdd(tap, hn::LoadU(d, g_kept + token * kBlock + at), sum);
    }
    if (args.dfinal_state && j >= length) {
      const float* row = args.dfinal_state.row<float>(rows.document * kHistory + j - length);
      sum = hn::Add(sum, lanes.Load(row));
    }
    lanes.Store(sum, args.dinitial_state.row<float>(rows.document * kHistory + j));
  }
}

template <class T, int kWidth, States kStates>
void BackwardBlock(const CausalConvolutionBackwardArgs& args, int64_t channel) {
  const int64_t channel_end = std::min(channel + kBlock, args.x.columns);
  const Taps<kWidth> block(args.weight, args.bias, channel, channel_end);
  ParameterSums<kWidth> sums;
  HWY_ALIGN float g[kWidth * kBlock];
  for (int64_t document = args.documents - 1; document >= 0; --document) {
    const DocumentRows rows{document, args.document_offsets[document],
                            args.document_offsets[document + 1]};
    std::fill(g, g + kWidth * kBlock, 0.0f);
    for (int64_t end = rows.end; end > rows.begin; end -= kTile) {
      for (int64_t c = channel; c < channel_end; c += kLanes) {
        const Lanes lanes{c, std::min(kLanes, channel_end - c)};
        BackwardLanes<T, kWidth, kStates>(args, block, c - channel, lanes, rows,
                                          std::max(rows.begin, end - kTile), end - 1, g, sums);
      }
    }
    if (!args.dinitial_state) continue;
    for (int64_t c = channel; c < channel_end; c += kLanes) {
      const Lanes lanes{c, std::min(kLanes, channel_end - c)};
      StoreInitialGradient<kWidth>(args, block, c - channel, lanes, rows, g);
    }
  }
  for (int64_t c = channel; c < channel_end; ++c) {
    for (int j = 0; j < kWidth; ++j) args.dweight.row<float>(c)[j] += sums.taps[j][c - channel];
    if (args.dbias) args.dbias.as<float>()[c] += sums.biases[c - channel];
  }
}

template <class T, int kWidth>
void Forward(const CausalConvolutionForwardArgs& args, int num_threads) {
#pragma omp parallel for num_threads(num_threads) schedule(static)
  for (int64_t channel = 0; channel < args.x.columns; channel += kBlock) {
    ForwardBlock<T, kWidth>(args, channel);
  }
}
template <class T, int kWidth>
void Backward(const CausalConvolutionBackwardArgs& args, int num_threads) {
  const bool states = args.initial_state || args.dfinal_state;
#pragma omp parallel for num_threads(num_threads) schedule(static)
  for (int64_t channel = 0; channel < args.x.columns; channel += kBlock) {
    if (states) {
      BackwardBlock<T, kWidth, States::kPresent>(args, channel);
    } else {
      BackwardBlock<T, kWidth, States::kAbsent>(args, channel);
    }
  }
}

int UsefulThreads(int64_t channels, int num_threads) {
  return static_cast<int>(std::clamp<int64_t>((channels + kBlock - 1) / kBlock, 1, num_threads));
}

template <class T>
void ForwardAnyWidth(const CausalConvolutionForwardArgs& args, int num_threads) {
  if (args.weight.columns == 2) return Forward<T, 2>(args, num_threads);
  if (args.weight.columns == 3) return Forward<T, 3>(args, num_threads);
  Forward<T, 4>(args, num_threads);
}
template <class T>
void BackwardAnyWidth(const CausalConvolutionBackwardArgs& args, int num_threads) {
  if (args.weight.columns == 2) return Backward<T, 2>(args, num_threads);
  if (args.weight.columns == 3) return Backward<T, 3>(args, num_threads);
  Backward<T, 4>(args, num_threads);
}

void ForwardAny(const CausalConvolutionForwardArgs& args, int num_threads) {
  num_threads = UsefulThreads(args.x.columns, num_threads);
  if (args.x.dtype == DType::kF32) return ForwardAnyWidth<float>(args, num_threads);
  ForwardAnyWidth<BFloat16>(args, num_threads);
}
void BackwardAny(const CausalConvolutionBackwardArgs& args, int num_threads) {
  num_threads = UsefulThreads(args.x.columns, num_threads);
  if (args.x.dtype == DType::kF32) return BackwardAnyWidth<float>(args, num_threads);
  BackwardAnyWidth<BFloat16>(args, num_threads);
}

// NOLINTNEXTLINE(google-readability-namespace-comments)
}  // namespace plait::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace plait::cpu {
namespace {

HWY_EXPORT(ForwardAny);
HWY_EXPORT(BackwardAny);

std::string Accepts(DType x, const ConstMatrixView& weight, const ConstVectorView& bias) {
  if (x == DType::kF64 || weight.dtype == DType::kF64) return "f64";
  if (bias && bias.dtype == DType::kF64) return "f64 bias";
  if (weight.columns < 2 || weight.columns > 4) return "fewer than two taps or more than four";
  return "";
}

}  // namespace

std::string AcceptsCausalConvolutionForward(const CausalConvolutionForwardArgs& args) {
  return Accepts(args.x.dtype, args.weight, args.bias);
}
std::string AcceptsCausalConvolutionBackward(const CausalConvolutionBackwardArgs& args) {
  if (args.dweight.dtype != DType::kF32 || (args.dbias && args.dbias.dtype != DType::kF32)) {
    return "a parameter's gradient is not f32";
  }
  for (const ConstMatrixView& view : {args.dfinal_state, ConstMatrixView(args.dinitial_state)}) {
    if (view && view.dtype != DType::kF32) return "a state's gradient is not f32";
  }
  return Accepts(args.x.dtype, args.weight, args.bias);
}

absl::Status CausalConvolutionForward(Execution& execution,
                                      const CausalConvolutionForwardArgs& args) {
  HWY_DYNAMIC_DISPATCH(ForwardAny)(args, execution.num_threads());
  return absl::OkStatus();
}
absl::Status CausalConvolutionBackward(Execution& execution,
                                       const CausalConvolutionBackwardArgs& args) {
  HWY_DYNAMIC_DISPATCH(BackwardAny)(args, execution.num_threads());
  return absl::OkStatus();
}

}  // namespace plait::cpu
#endif  // HWY_ONCE
