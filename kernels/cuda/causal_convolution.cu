#include <algorithm>

#include "base/status_macros.h"
#include "kernels/cuda/any_floating.h"
#include "kernels/cuda/causal_convolution.h"
#include "kernels/cuda/device.h"
#include "kernels/cuda/device_copies.h"
#include "kernels/cuda/dispatch.h"
#include "kernels/cuda/documents.h"
#include "kernels/cuda/logistic.h"

namespace plait::cuda {
namespace {

constexpr int kBlockThreads = 128;
// Taps that are kept in registers.
constexpr int kWidth = 4;
constexpr int kHistory = kWidth - 1;
// Tokens whose loads are on their way together.
constexpr int kBatch = 4;
// Threads that keep the memory of a Hopper device busy: what runs are made shorter for.
constexpr int64_t kWantedThreads = 132 * 1024;
constexpr int64_t kShortestRun = 32, kLongestRun = 128;

// Neighbouring channels of one thread: of 16 bytes; in the backward, which keeps twice as many
// numbers for each, at most 4.
template <class T>
constexpr int kForwardChannels = static_cast<int>(16 / sizeof(T));
template <class T>
constexpr int kBackwardChannels = std::min(4, kForwardChannels<T>);

// What a thread works at: channels from `channel` on, tokens [begin, end), the `run`-th such range.
struct Work {
  int64_t channel, run, begin, end;
};

// Runs of tokens, each by as many threads as there are groups of channels.
struct Runs {
  int64_t tokens, run_tokens, groups, channels_of_group;

  int64_t count() const { return (tokens + run_tokens - 1) / run_tokens; }
  int64_t threads() const { return count() * groups; }
  __device__ __forceinline__ bool Take(Work* work) const {
    const int64_t thread = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
    work->run = thread / groups;
    work->channel = thread % groups * channels_of_group;
    work->begin = work->run * run_tokens;
    const int64_t end = work->begin + run_tokens;
    work->end = end < tokens ? end : tokens;
    return work->begin < tokens;
  }
};

Runs MakeRuns(int64_t tokens, int64_t channels, int64_t channels_of_group) {
  Runs runs{tokens, kLongestRun, channels / channels_of_group, channels_of_group};
  while (runs.run_tokens > kShortestRun && runs.threads() < kWantedThreads) runs.run_tokens /= 2;
  return runs;
}

// Input at `row` of a document: of x, and of the state (or zero) before its begin.
template <class T>
__device__ __forceinline__ const T* InputRow(const ConstMatrixView& x, const ConstMatrixView& state,
                                             const DeviceDocument& document, int64_t history,
                                             int64_t row) {
  if (row >= document.begin) return x.row<T>(row);
  if (!state) return nullptr;
  return state.row<T>((document.index + 1) * history + row - document.begin);
}

// Channels [channel, channel + kChannels) of a row; zeros of no row.
template <class T, int kChannels>
__device__ __forceinline__ void LoadChannels(const T* row, int64_t channel,
                                             Accumulator<T> (&to)[kChannels]) {
  Pack<T, kChannels> pack;
  if (row != nullptr) pack = *reinterpret_cast<const Pack<T, kChannels>*>(row + channel);
  PLAIT_UNROLL
  for (int i = 0; i < kChannels; ++i) {
    to[i] = row != nullptr ? Load(pack.values[i]) : Accumulator<T>{0};
  }
}

// Taps, bias and the last kWidth inputs of a thread's channels, oldest first.
template <class T, int kChannels>
struct Window {
  using A = Accumulator<T>;

  __device__ __forceinline__ void LoadTaps(const ConstMatrixView& weight,
                                           const ConstVectorView& bias_view, int64_t channel) {
    PLAIT_UNROLL
    for (int i = 0; i < kChannels; ++i) {
      PLAIT_UNROLL
      for (int j = 0; j < kWidth; ++j) taps[j][i] = LoadAny<A>(weight, channel + i, j);
      bias[i] = bias_view ? LoadAny<A>(bias_view, channel + i) : A{0};
    }
  }
  // As it is after the token before t of the document.
  __device__ __forceinline__ void Begin(const ConstMatrixView& x, const ConstMatrixView& state,
                                        const DeviceDocument& document, int64_t channel,
                                        int64_t t) {
    PLAIT_UNROLL
    for (int j = 1; j < kWidth; ++j) {
      LoadChannels<T, kChannels>(InputRow<T>(x, state, document, kHistory, t - kWidth + j), channel,
                                 inputs[j]);
    }
  }
  __device__ __forceinline__ void Push(const Pack<T, kChannels>& input) {
    PLAIT_UNROLL
    for (int i = 0; i < kChannels; ++i) {
      PLAIT_UNROLL
      for (int j = 0; j < kHistory; ++j) inputs[j][i] = inputs[j + 1][i];
      inputs[kHistory][i] = Load(input.values[i]);
    }
  }
  __device__ __forceinline__ A Convolve(int i) const {
    A sum = bias[i];
    PLAIT_UNROLL
    for (int j = 0; j < kWidth; ++j) sum += taps[j][i] * inputs[j][i];
    return sum;
  }

  A taps[kWidth][kChannels], bias[kChannels], inputs[kWidth][kChannels];
};

template <class T, int kChannels>
__device__ __forceinline__ void LoadBatch(const ConstMatrixView& from, int64_t channel, int64_t t,
                                          int64_t end, Pack<T, kChannels> (&to)[kBatch]) {
  PLAIT_UNROLL
  for (int i = 0; i < kBatch; ++i) {
    const int64_t row = t + i < end ? t + i : end - 1;
    to[i] = *reinterpret_cast<const Pack<T, kChannels>*>(from.row<T>(row) + channel);
  }
}

template <class T, int kChannels>
__global__ void __launch_bounds__(kBlockThreads)
    ForwardKernel(CausalConvolutionForwardArgs args, Runs runs, const int32_t* offsets) {
  Work work;
  if (!runs.Take(&work)) return;
  Window<T, kChannels> window;
  window.LoadTaps(args.weight, args.bias, work.channel);
  DeviceDocument document = DocumentOf(offsets, args.documents, work.begin);
  window.Begin(args.x, args.initial_state, document, work.channel, work.begin);
  for (int64_t first = work.begin; first < work.end; first += kBatch) {
    Pack<T, kChannels> batch[kBatch];
    LoadBatch<T, kChannels>(args.x, work.channel, first, work.end, batch);
    PLAIT_UNROLL
    for (int i = 0; i < kBatch; ++i) {
      const int64_t t = first + i;
      if (t >= work.end) break;
      if (t == document.end) {
        document = NextDocument(offsets, document);
        window.Begin(args.x, args.initial_state, document, work.channel, t);
      }
      window.Push(batch[i]);
      Pack<T, kChannels> y;
      PLAIT_UNROLL
      for (int c = 0; c < kChannels; ++c) {
        const auto pre = window.Convolve(c);
        y.values[c] = Round<T>(pre * Logistic(pre));
      }
      *reinterpret_cast<Pack<T, kChannels>*>(args.y.row<T>(t) + work.channel) = y;
    }
  }
}

// partial: [runs, kWidth + 1, channels], of the taps and the bias.
template <class T, int kChannels>
__global__ void __launch_bounds__(kBlockThreads)
    BackwardKernel(CausalConvolutionBackwardArgs args, Runs runs, const int32_t* offsets,
                   Accumulator<T>* partial) {
  using A = Accumulator<T>;
  Work work;
  if (!runs.Take(&work)) return;
  Window<T, kChannels> window;
  window.LoadTaps(args.weight, args.bias, work.channel);
  A dtaps[kWidth][kChannels] = {}, dbias[kChannels] = {};
  DeviceDocument document = DocumentOf(offsets, args.documents, work.begin);
  int64_t begin = work.begin;
  for (;;) {  // the part of each document in this run: tokens [begin, end)
    const int64_t end = document.end < work.end ? document.end : work.end;
    window.Begin(args.x, args.initial_state, document, work.channel, begin);
    A g[kWidth][kChannels] = {};  // of the last tokens, newest last
    // dx follows kHistory tokens behind; beyond the document g is zero.
    for (int64_t first = begin; first < end + kHistory; first += kBatch) {
      Pack<T, kChannels> x[kBatch], dy[kBatch];
      LoadBatch<T, kChannels>(args.x, work.channel, first, document.end, x);
      LoadBatch<T, kChannels>(args.dy, work.channel, first, document.end, dy);
      PLAIT_UNROLL
      for (int i = 0; i < kBatch; ++i) {
        const int64_t t = first + i, out = t - kHistory;
        if (t >= end + kHistory) break;
        window.Push(x[i]);
        PLAIT_UNROLL
        for (int c = 0; c < kChannels; ++c) {
          PLAIT_UNROLL
          for (int j = 0; j < kHistory; ++j) g[j][c] = g[j + 1][c];
          const A pre = window.Convolve(c);
          const A slope = SiluSlope(pre, Logistic(pre));
          const A newest = t < document.end ? Load(dy[i].values[c]) * slope : A{0};
          g[kHistory][c] = newest;
          if (t < end) {
            PLAIT_UNROLL
            for (int j = 0; j < kWidth; ++j) dtaps[j][c] += newest * window.inputs[j][c];
            dbias[c] += newest;
          }
        }
        if (out < begin) continue;
        const int64_t place = out - (document.end - kHistory);  // in the final state
        Pack<T, kChannels> dx;
        PLAIT_UNROLL
        for (int c = 0; c < kChannels; ++c) {
          A sum = 0;
          PLAIT_UNROLL
          for (int j = 0; j < kWidth; ++j) sum += window.taps[kHistory - j][c] * g[j][c];
          if (args.dfinal_state && place >= 0) {
            sum +=
                LoadAny<A>(args.dfinal_state, document.index * kHistory + place, work.channel + c);
          }
          dx.values[c] = Round<T>(sum);
        }
        *reinterpret_cast<Pack<T, kChannels>*>(args.dx.row<T>(out) + work.channel) = dx;
      }
    }
    if (end == work.end) break;
    begin = end;
    document = NextDocument(offsets, document);
  }
  const int64_t channels = args.x.columns;
  A* own = partial + work.run * (kWidth + 1) * channels + work.channel;
  PLAIT_UNROLL
  for (int c = 0; c < kChannels; ++c) {
    PLAIT_UNROLL
    for (int j = 0; j < kWidth; ++j) own[j * channels + c] = dtaps[j][c];
    own[kWidth * channels + c] = dbias[c];
  }
}

// Any width, from memory. A channel.
template <class T>
struct Convolution {
  using A = Accumulator<T>;

  __device__ __forceinline__ A Input(int64_t row) const {
    const T* inputs = InputRow<T>(x, state, document, weight.columns - 1, row);
    return inputs != nullptr ? Load(inputs[channel]) : A{0};
  }
  __device__ A Pre(int64_t t) const {
    A sum = bias ? LoadAny<A>(bias, channel) : A{0};
    for (int64_t j = 0; j < weight.columns; ++j) {
      sum += LoadAny<A>(weight, channel, j) * Input(t - weight.columns + 1 + j);
    }
    return sum;
  }
  // The gradient of Pre(t), with dy of token t.
  __device__ A PreGradient(int64_t t, const ConstMatrixView& dy) const {
    const A pre = Pre(t);
    return Load(dy.row<T>(t)[channel]) * SiluSlope(pre, Logistic(pre));
  }

  ConstMatrixView x, weight;
  ConstVectorView bias;
  ConstMatrixView state;
  DeviceDocument document;
  int64_t channel;
};

template <class T>
__global__ void __launch_bounds__(kBlockThreads)
    AnyWidthForwardKernel(CausalConvolutionForwardArgs args, Runs runs, const int32_t* offsets) {
  Work work;
  if (!runs.Take(&work)) return;
  Convolution<T> convolution{args.x,
                             args.weight,
                             args.bias,
                             args.initial_state,
                             DocumentOf(offsets, args.documents, work.begin),
                             work.channel};
  for (int64_t t = work.begin; t < work.end; ++t) {
    if (t == convolution.document.end) {
      convolution.document = NextDocument(offsets, convolution.document);
    }
    const auto pre = convolution.Pre(t);
    args.y.row<T>(t)[work.channel] = Round<T>(pre * Logistic(pre));
  }
}

// partial: [runs, width + 1, channels], of the taps and the bias.
template <class T>
__global__ void __launch_bounds__(kBlockThreads)
    AnyWidthBackwardKernel(CausalConvolutionBackwardArgs args, Runs runs, const int32_t* offsets,
                           Accumulator<T>* partial) {
  using A = Accumulator<T>;
  Work work;
  if (!runs.Take(&work)) return;
  const int64_t width = args.weight.columns, history = width - 1, channels = args.x.columns;
  A* own = partial + work.run * (width + 1) * channels + work.channel;
  for (int64_t j = 0; j <= width; ++j) own[j * channels] = 0;
  Convolution<T> convolution{args.x,
                             args.weight,
                             args.bias,
                             args.initial_state,
                             DocumentOf(offsets, args.documents, work.begin),
                             work.channel};
  for (int64_t t = work.begin; t < work.end; ++t) {
    DeviceDocument& document = convolution.document;
    if (t == document.end) document = NextDocument(offsets, document);
    A dx = 0;
    for (int64_t j = 0; j < width && t + j < document.end; ++j) {
      const A g = convolution.PreGradient(t + j, args.dy);
      dx += LoadAny<A>(args.weight, work.channel, history - j) * g;
      if (j > 0) continue;
      for (int64_t tap = 0; tap < width; ++tap) {
        own[tap * channels] += g * convolution.Input(t - history + tap);
      }
      own[width * channels] += g;
    }
    const int64_t place = t - (document.end - history);  // in the final state
    if (args.dfinal_state && place >= 0) {
      dx += LoadAny<A>(args.dfinal_state, document.index * history + place, work.channel);
    }
    args.dx.row<T>(t)[work.channel] = Round<T>(dx);
  }
}

// In the order of the runs, to dweight transposed: not partial_sums.h's, whose order is another and
// whose sums go to neighbours.
template <class A>
__global__ void AddRunsKernel(const A* partial, int64_t runs, MatrixView dweight,
                              VectorView dbias) {
  const int64_t thread = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  const int64_t channels = dweight.rows, width = dweight.columns;
  const int64_t tap = thread / channels, channel = thread % channels;
  if (tap > width || (tap == width && !dbias)) return;
  A sum = 0;
  for (int64_t run = 0; run < runs; ++run) sum += partial[run * (width + 1) * channels + thread];
  if (tap < width) {
    AddAny(dweight, channel, tap, sum);
  } else {
    AddAny(dbias, channel, sum);
  }
}

// A thread takes a channel of a document; false: beyond the last.
__device__ __forceinline__ bool TakeDocument(const int32_t* offsets, int64_t documents,
                                             int64_t channels, DeviceDocument* document,
                                             int64_t* channel) {
  const int64_t thread = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  const int64_t index = thread / channels;
  if (index >= documents) return false;
  *document = {index, offsets[index], offsets[index + 1]};
  *channel = thread % channels;
  return true;
}

// Row j takes an older row (of initial_state, perhaps the same memory) or one of x: in order.
template <class T>
__global__ void FinalStateKernel(CausalConvolutionForwardArgs args, const int32_t* offsets) {
  DeviceDocument document;
  int64_t channel;
  if (!TakeDocument(offsets, args.documents, args.x.columns, &document, &channel)) return;
  const int64_t history = args.weight.columns - 1;
  for (int64_t j = 0; j < history; ++j) {
    const T* row =
        InputRow<T>(args.x, args.initial_state, document, history, document.end - history + j);
    args.final_state.row<T>(document.index * history + j)[channel] =
        row != nullptr ? row[channel] : T{};
  }
}

// Row j takes an older row of the final state's gradient (perhaps the same memory): from the newest
// row on.
template <class T>
__global__ void InitialGradientKernel(CausalConvolutionBackwardArgs args, const int32_t* offsets) {
  using A = Accumulator<T>;
  DeviceDocument document;
  int64_t channel;
  if (!TakeDocument(offsets, args.documents, args.x.columns, &document, &channel)) return;
  const Convolution<T> convolution{args.x,   args.weight, args.bias, args.initial_state,
                                   document, channel};
  const int64_t history = args.weight.columns - 1, length = document.end - document.begin;
  for (int64_t j = history - 1; j >= 0; --j) {
    // Input j lies history - j tokens before the first one.
    A sum = 0;
    for (int64_t token = 0; token <= j && token < length; ++token) {
      sum += LoadAny<A>(args.weight, channel, j - token) *
             convolution.PreGradient(document.begin + token, args.dy);
    }
    if (args.dfinal_state && j >= length) {
      sum += LoadAny<A>(args.dfinal_state, document.index * history + j - length, channel);
    }
    StoreAny(args.dinitial_state, document.index * history + j, channel, sum);
  }
}

// Whether rows can be read in packs of `channels` elements.
bool IsAligned(const ConstMatrixView& view, int channels) {
  const auto bytes = SizeOf(view.dtype) * static_cast<size_t>(channels);
  return view.columns % channels == 0 && reinterpret_cast<uintptr_t>(view.data) % bytes == 0 &&
         view.row_stride % channels == 0;
}

template <class T>
absl::Status RunForward(Execution& execution, const CausalConvolutionForwardArgs& args,
                        const int32_t* offsets) {
  StreamHandle stream = execution.compute().handle();
  constexpr int kChannels = kForwardChannels<T>;
  const bool packs = IsAligned(args.x, kChannels) && IsAligned(args.y, kChannels) &&
                     (!args.initial_state || IsAligned(args.initial_state, kChannels));
  const bool any_width = args.weight.columns != kWidth;
  const Runs runs = MakeRuns(args.x.rows, args.x.columns, packs && !any_width ? kChannels : 1);
  const auto kernel = any_width ? AnyWidthForwardKernel<T>
                      : packs   ? ForwardKernel<T, kChannels>
                                : ForwardKernel<T, 1>;
  PLAIT_RETURN_IF_ERROR(ToStatus(LaunchKernel(kernel, {BlocksFor(runs.threads(), kBlockThreads)},
                                              {kBlockThreads}, 0, stream, args, runs, offsets),
                                 "causal_convolution forward"));
  if (!args.final_state) return absl::OkStatus();
  return ToStatus(
      LaunchKernel(FinalStateKernel<T>, {BlocksFor(args.documents * args.x.columns, kBlockThreads)},
                   {kBlockThreads}, 0, stream, args, offsets),
      "causal_convolution forward");
}

template <class T>
absl::Status RunBackward(Execution& execution, const CausalConvolutionBackwardArgs& args,
                         const int32_t* offsets) {
  using A = Accumulator<T>;
  StreamHandle stream = execution.compute().handle();
  const int64_t channels = args.x.columns, width = args.weight.columns;
  constexpr int kChannels = kBackwardChannels<T>;
  bool packs = true;
  for (const ConstMatrixView& view : {args.x, args.dy, ConstMatrixView(args.dx)}) {
    packs = packs && IsAligned(view, kChannels);
  }
  if (args.initial_state) packs = packs && IsAligned(args.initial_state, kChannels);
  const bool any_width = width != kWidth;
  const Runs runs = MakeRuns(args.x.rows, channels, packs && !any_width ? kChannels : 1);
  Tensor partial = execution.Empty(StatisticsDType(args.x.dtype),
                                   {std::max<int64_t>(runs.count(), 1), width + 1, channels});
  const auto kernel = any_width ? AnyWidthBackwardKernel<T>
                      : packs   ? BackwardKernel<T, kChannels>
                                : BackwardKernel<T, 1>;
  PLAIT_RETURN_IF_ERROR(
      ToStatus(LaunchKernel(kernel, {BlocksFor(runs.threads(), kBlockThreads)}, {kBlockThreads}, 0,
                            stream, args, runs, offsets, partial.data<A>()),
               "causal_convolution backward"));
  PLAIT_RETURN_IF_ERROR(
      ToStatus(LaunchKernel(AddRunsKernel<A>, {BlocksFor((width + 1) * channels, kBlockThreads)},
                            {kBlockThreads}, 0, stream, partial.data<A>(), runs.count(),
                            args.dweight, args.dbias),
               "causal_convolution backward"));
  if (!args.dinitial_state) return absl::OkStatus();
  return ToStatus(
      LaunchKernel(InitialGradientKernel<T>, {BlocksFor(args.documents * channels, kBlockThreads)},
                   {kBlockThreads}, 0, stream, args, offsets),
      "causal_convolution backward");
}

std::string Accepts(DType x, DType weight, const ConstVectorView& bias) {
  if (!IsFloating(x) || !IsFloating(weight) || (bias && !IsFloating(bias.dtype))) {
    return "dtypes other than bf16, f32 and f64";
  }
  return "";
}

// run(TypeTag of x's dtype, the documents' offsets on the device), where there is anything to do.
template <class Args, class Run>
absl::Status Dispatch(Execution& execution, const Args& args, Run&& run) {
  if (args.documents == 0 || args.x.columns == 0) return absl::OkStatus();
  PLAIT_ASSIGN_OR_RETURN(const int32_t* offsets,
                         DeviceCopy(execution, args.document_offsets, args.documents + 1));
  return DispatchFloating(args.x.dtype, [&](auto t) { return run(t, offsets); });
}

bool IsWide(DType dtype) { return dtype == DType::kF32 || dtype == DType::kF64; }

}  // namespace

std::string AcceptsCausalConvolutionForward(const CausalConvolutionForwardArgs& args) {
  return Accepts(args.x.dtype, args.weight.dtype, args.bias);
}

absl::Status CausalConvolutionForward(Execution& execution,
                                      const CausalConvolutionForwardArgs& args) {
  return Dispatch(execution, args, [&](auto t, const int32_t* offsets) {
    return RunForward<typename decltype(t)::Type>(execution, args, offsets);
  });
}

std::string AcceptsCausalConvolutionBackward(const CausalConvolutionBackwardArgs& args) {
  if (!IsWide(args.dweight.dtype) || (args.dbias && !IsWide(args.dbias.dtype))) {
    return "a parameter's gradient is neither f32 nor f64";
  }
  for (const ConstMatrixView& view : {args.dfinal_state, ConstMatrixView(args.dinitial_state)}) {
    if (view && !IsWide(view.dtype)) return "a state's gradient is neither f32 nor f64";
  }
  return Accepts(args.x.dtype, args.weight.dtype, args.bias);
}

absl::Status CausalConvolutionBackward(Execution& execution,
                                       const CausalConvolutionBackwardArgs& args) {
  return Dispatch(execution, args, [&](auto t, const int32_t* offsets) {
    return RunBackward<typename decltype(t)::Type>(execution, args, offsets);
  });
}

KernelScratch::Blocks CausalConvolutionBackwardScratch(DType dtype, int64_t tokens,
                                                       int64_t channels, int64_t width) {
  if (channels == 0) return {};
  return DispatchFloating(dtype, [&](auto t) -> KernelScratch::Blocks {
    using T = typename decltype(t)::Type;
    const bool packs = width == kWidth && channels % kBackwardChannels<T> == 0;
    const Runs runs = MakeRuns(tokens, channels, packs ? kBackwardChannels<T> : 1);
    return {std::max<int64_t>(runs.count(), 1) * (width + 1) * channels *
            static_cast<int64_t>(sizeof(Accumulator<T>))};
  });
}

}  // namespace plait::cuda
