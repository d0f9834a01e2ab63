#include "base/status_macros.h"
#include "kernels/cuda/device.h"
#include "kernels/cuda/device_copies.h"
#include "kernels/cuda/dispatch.h"
#include "kernels/cuda/selective_scan_device.h"
#include "kernels/cuda/selective_scan_summary.h"

namespace plait::cuda {
namespace {

enum class Direction { kForward, kBackward };

// Summaries of the segments of a packed microbatch: of the last document of each segment; of the
// first one, backwards. Without offsets there is one document.
struct SummaryArgs {
  ConstMatrixView x;         // forward
  ConstMatrixView z, dy;     // backward
  ConstMatrixView dt, rows;  // rows: of B; of C, backwards
  ConstMatrixView a_log;
  ConstVectorView dt_bias;
  // States that documents begin with; their gradients at the ends, backwards.
  ConstMatrixView boundary;
  int64_t documents = 1;
  const int32_t* offsets = nullptr;
  ScanSegments segments = {};
  MatrixView local;      // [segments x states, channels]
  VectorView delta_sum;  // [segments x channels]
};

__device__ __forceinline__ DeviceDocument DocumentAt(const SummaryArgs& args, int64_t t) {
  if (args.offsets == nullptr) return {0, 0, args.segments.tokens};
  return DocumentOf(args.offsets, args.documents, t);
}

// What a thread of either direction begins with. Shared memory: rows of B or C, then of each token
// of a step delta and what enters the state, then columns for any number of states.
template <class A, int kStates>
struct SummaryThread {
  __device__ __forceinline__ SummaryThread(const SummaryArgs& args, A* shared)
      : any_states(static_cast<int>(args.rows.columns)),
        threads(static_cast<int>(blockDim.x)),
        place(TakeScanPlace(args.segments, args.dt.columns)),
        deltas(shared + kScanTile * padded() + threadIdx.x),
        inputs(deltas + kScanStep * threads),
        bias(args.dt_bias.as<A>()[place.channel]) {}
  // Columns of the thread: of the state, of exponents.
  __device__ __forceinline__ StateColumn<A, kStates> Column(int index) const {
    return {inputs + (kScanStep + index * padded()) * threads, threads};
  }
  // Known to the compiler where kStates is not 0: loops over them are unrolled.
  __device__ __forceinline__ int states() const { return kStates > 0 ? kStates : any_states; }
  __device__ __forceinline__ int padded() const {
    return kStates > 0 ? kStates : static_cast<int>(PaddedStates(any_states));
  }

  int any_states, threads;
  ScanPlace place;
  A *deltas, *inputs;  // of this thread, `threads` from one token to the next
  A bias;
};

// What it ends with.
template <class A, int kStates>
__device__ __forceinline__ void StoreSummary(const SummaryArgs& args,
                                             const SummaryThread<A, kStates>& own,
                                             StateColumn<A, kStates>& state, A delta_sum) {
  const ScanPlace& place = own.place;
  StoreStates<A>(args.local, place.segment * own.states(), place, own.states(), state);
  if (place.active) {
    args.delta_sum.as<A>()[place.segment * args.dt.columns + place.channel] = delta_sum;
  }
}

template <class T, int kStates>
__global__ void __launch_bounds__(kScanThreads) SummaryForwardKernel(SummaryArgs args) {
  using A = Accumulator<T>;
  PLAIT_DYNAMIC_SHARED(A, shared);
  const SummaryThread<A, kStates> own(args, shared);
  const int states = own.states(), padded = own.padded(), threads = own.threads;
  const ScanPlace& place = own.place;
  StateColumn<A, kStates> h = own.Column(0), exponents = own.Column(1);
  LoadDecayExponents<A>(args.a_log, place.channel, states, padded, exponents);
  int64_t begin = place.begin;
  ConstMatrixView boundary;
  int64_t document_index = 0;
  if (place.begin < place.end) {
    const DeviceDocument document = DocumentAt(args, place.end - 1);
    if (document.begin >= place.begin) {
      begin = document.begin;
      boundary = args.boundary;
      document_index = document.index;
    }
  }
  LoadStates<A>(boundary, document_index * states, place, states, padded, h);
  A delta_sum = 0;
  StateRows<T, kStates> rows;
  for (int64_t tile = begin; tile < place.end; tile += kScanTile) {
    const int64_t tile_end = tile + kScanTile < place.end ? tile + kScanTile : place.end;
    rows.Load(args.rows, tile, tile_end);
    __syncthreads();
    rows.Store(args.rows, tile, tile_end, shared);
    __syncthreads();
    for (int64_t first = tile; first < tile_end; first += kScanStep) {
      T x[kScanStep], dt[kScanStep];
      LoadTokens(args.x, place.channel, first, tile, tile_end, x);
      LoadTokens(args.dt, place.channel, first, tile, tile_end, dt);
      PLAIT_UNROLL
      for (int i = 0; i < kScanStep; ++i) {
        const A delta = Softplus(Load(dt[i]) + own.bias);
        own.deltas[i * threads] = delta;
        own.inputs[i * threads] = delta * Load(x[i]);
      }
      for (int i = 0; i < kScanStep && first + i < tile_end; ++i) {
        const A delta = own.deltas[i * threads], input = own.inputs[i * threads];
        const A* b = shared + (first - tile + i) * padded;
        PLAIT_UNROLL
        for (int n = 0; n < padded; ++n) {
          h[n] = ScanExp2(delta * exponents[n]) * h[n] + input * b[n];
        }
        delta_sum += delta;
      }
    }
  }
  StoreSummary(args, own, h, delta_sum);
}

template <class T, int kStates>
__global__ void __launch_bounds__(kScanThreads) SummaryBackwardKernel(SummaryArgs args) {
  using A = Accumulator<T>;
  PLAIT_DYNAMIC_SHARED(A, shared);
  const SummaryThread<A, kStates> own(args, shared);
  const int states = own.states(), padded = own.padded(), threads = own.threads;
  const ScanPlace& place = own.place;
  StateColumn<A, kStates> g = own.Column(0), exponents = own.Column(1);
  LoadDecayExponents<A>(args.a_log, place.channel, states, padded, exponents);
  int64_t end = place.end;
  ConstMatrixView boundary;
  int64_t document_index = 0;
  if (place.begin < place.end) {
    const DeviceDocument document = DocumentAt(args, place.begin);
    if (document.end <= place.end) {
      end = document.end;
      boundary = args.boundary;
      document_index = document.index;
    }
  }
  LoadStates<A>(boundary, document_index * states, place, states, padded, g);
  A delta_sum = 0;
  StateRows<T, kStates> rows;
  for (int64_t tile_end = end; tile_end > place.begin; tile_end -= kScanTile) {
    const int64_t tile = tile_end - kScanTile > place.begin ? tile_end - kScanTile : place.begin;
    rows.Load(args.rows, tile, tile_end);
    __syncthreads();
    rows.Store(args.rows, tile, tile_end, shared);
    __syncthreads();
    for (int64_t last = tile_end; last > tile; last -= kScanStep) {
      T z[kScanStep], dt[kScanStep], dy[kScanStep];
      const int64_t first = last - kScanStep;
      LoadTokens(args.z, place.channel, first, tile, tile_end, z);
      LoadTokens(args.dt, place.channel, first, tile, tile_end, dt);
      LoadTokens(args.dy, place.channel, first, tile, tile_end, dy);
      PLAIT_UNROLL
      for (int i = 0; i < kScanStep; ++i) {
        own.deltas[i * threads] = Softplus(Load(dt[i]) + own.bias);
        const A gate = Load(z[i]);
        own.inputs[i * threads] = Load(dy[i]) * gate * Logistic(gate);
      }
      for (int i = kScanStep - 1; i >= 0 && first + i >= tile; --i) {
        const A delta = own.deltas[i * threads], input = own.inputs[i * threads];
        const A* c = shared + (first - tile + i) * padded;
        PLAIT_UNROLL
        for (int n = 0; n < padded; ++n) {
          g[n] = ScanExp2(delta * exponents[n]) * (g[n] + c[n] * input);
        }
        delta_sum += delta;
      }
    }
  }
  StoreSummary(args, own, g, delta_sum);
}

// Carries a state (its gradient) over the segments: a thread takes one state of a channel. before
// (absent: not kept): what reaches each segment, [segments x states, channels]. last, delta_sum
// (absent: not wanted): what the last one leaves, and the sum over all segments.
template <class A, Direction kDirection>
__global__ void __launch_bounds__(kScanThreads)
    CarryOverSegmentsKernel(SummaryArgs args, MatrixView before, MatrixView last,
                            VectorView delta_sum) {
  const int64_t states = args.a_log.columns, channels = args.a_log.rows;
  const int64_t thread = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  const int64_t n = thread / channels, channel = thread % channels;
  if (n >= states) return;
  const A exponent = DecayExponent(args.a_log.row<A>(channel)[n]);
  const int64_t count = args.segments.count();
  A state = 0, sum = 0;
  for (int64_t i = 0; i < count; ++i) {
    const int64_t segment = kDirection == Direction::kForward ? i : count - 1 - i;
    if (before) before.row<A>(segment * states + n)[channel] = state;
    const A delta = args.delta_sum.as<A>()[segment * channels + channel];
    const int64_t begin = args.segments.begin(segment), end = args.segments.end(segment);
    // Whether nothing of what reaches the segment is left behind it.
    const bool starts = kDirection == Direction::kForward ? DocumentAt(args, end - 1).begin >= begin
                                                          : DocumentAt(args, begin).end <= end;
    const A local = args.local.row<A>(segment * states + n)[channel];
    state = starts ? local : local + ScanExp2(exponent * delta) * state;
    sum += delta;
  }
  if (last) last.row<A>(n)[channel] = state;
  if (delta_sum && n == 0) delta_sum.as<A>()[channel] = sum;
}

template <class A>
__global__ void __launch_bounds__(kScanThreads) CarryKernel(SelectiveScanCarryArgs args) {
  const int64_t states = args.a_log.columns, channels = args.a_log.rows;
  const int64_t thread = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  const int64_t n = thread / channels, channel = thread % channels;
  if (n >= states) return;
  const A decay =
      ScanExp2(DecayExponent(args.a_log.row<A>(channel)[n]) * args.delta_sum.as<A>()[channel]);
  A* state = args.state.row<A>(n) + channel;
  *state = args.local.row<A>(n)[channel] + decay * *state;
}

template <class A>
__global__ void __launch_bounds__(kScanThreads) CopyKernel(ConstMatrixView from, A* to) {
  const int64_t thread = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  const int64_t row = thread / from.columns;
  if (row < from.rows) to[thread] = from.row<A>(row)[thread % from.columns];
}

template <class A>
ScanBlock SummaryBlock(int64_t channels, int64_t states) {
  const bool in_registers = states == 8 || states == 16;
  return MakeScanBlock(channels, [&](int threads) {
    const int64_t columns = 2 * kScanStep + (in_registers ? 0 : 2 * PaddedStates(states));
    const int64_t elements = kScanTile * PaddedStates(states) + columns * threads;
    return static_cast<size_t>(elements) * sizeof(A);
  });
}

ScanBlock SummaryBlock(DType inner, int64_t channels, int64_t states) {
  return inner == DType::kF64 ? SummaryBlock<double>(channels, states)
                              : SummaryBlock<float>(channels, states);
}

// Fills args.local and args.delta_sum.
template <Direction kDirection>
absl::Status Summarize(Execution& execution, const SummaryArgs& args) {
  const int64_t channels = args.dt.columns, states = args.rows.columns;
  const ScanBlock block = SummaryBlock(StatisticsDType(args.dt.dtype), channels, states);
  const auto blocks = static_cast<unsigned>((channels + block.threads - 1) / block.threads);
  return DispatchFloating(args.dt.dtype, [&](auto t) {
    using T = typename decltype(t)::Type;
    return DispatchStates(states, [&](auto count) {
      const auto kernel = kDirection == Direction::kForward ? SummaryForwardKernel<T, count()>
                                                            : SummaryBackwardKernel<T, count()>;
      return ToStatus(LaunchKernel(kernel, {blocks, static_cast<unsigned>(args.segments.count())},
                                   {static_cast<unsigned>(block.threads)}, block.shared_bytes,
                                   execution.compute().handle(), args),
                      "selective_scan_summary");
    });
  });
}

template <Direction kDirection>
absl::Status CarryOverSegments(Execution& execution, const SummaryArgs& args,
                               const MatrixView& before, const MatrixView& last,
                               const VectorView& delta_sum) {
  return DispatchWide(StatisticsDType(args.dt.dtype), [&](auto a) {
    using A = typename decltype(a)::Type;
    return ToStatus(LaunchKernel(CarryOverSegmentsKernel<A, kDirection>,
                                 {BlocksFor(args.a_log.rows * args.a_log.columns, kScanThreads)},
                                 {static_cast<unsigned>(kScanThreads)}, 0,
                                 execution.compute().handle(), args, before, last, delta_sum),
                    "selective_scan_summary");
  });
}

// Space for the summaries of args.segments.
struct Summaries {
  Summaries(Execution& execution, SummaryArgs& args)
      : dtype(StatisticsDType(args.dt.dtype)),
        count(args.segments.count()),
        local(execution.Empty(dtype, {count * args.rows.columns, args.dt.columns})),
        delta_sum(execution.Empty(dtype, {count, args.dt.columns})) {
    args.local = local.matrix();
    args.delta_sum = delta_sum.vector();
  }

  DType dtype;
  int64_t count;
  Tensor local, delta_sum;
};

// What reaches each segment.
template <Direction kDirection>
absl::StatusOr<Tensor> StatesAtSegments(Execution& execution, SummaryArgs args) {
  const Summaries summaries(execution, args);
  Tensor before = execution.Empty(summaries.dtype, summaries.local.shape());
  PLAIT_RETURN_IF_ERROR(Summarize<kDirection>(execution, args));
  PLAIT_RETURN_IF_ERROR(
      CarryOverSegments<kDirection>(execution, args, before.matrix(), MatrixView(), VectorView()));
  return before;
}

// The whole of one document: `state` and `delta_sum`.
template <Direction kDirection>
absl::Status SummarizeDocument(Execution& execution, SummaryArgs args, const MatrixView& state,
                               const VectorView& delta_sum) {
  if (args.dt.columns == 0) return absl::OkStatus();
  args.segments = CutIntoScanSegments(args.dt.rows, args.dt.columns);
  if (args.segments.count() == 1) {
    args.local = state;
    args.delta_sum = delta_sum;
    return Summarize<kDirection>(execution, args);
  }
  const Summaries summaries(execution, args);
  PLAIT_RETURN_IF_ERROR(Summarize<kDirection>(execution, args));
  return CarryOverSegments<kDirection>(execution, args, MatrixView(), state, delta_sum);
}

}  // namespace

absl::StatusOr<Tensor> StatesBeforeSegments(Execution& execution,
                                            const SelectiveScanForwardArgs& args,
                                            const int32_t* offsets, const ScanSegments& segments) {
  const SelectiveScanInputs& in = args.in;
  return StatesAtSegments<Direction::kForward>(execution, {.x = in.x,
                                                           .dt = in.dt,
                                                           .rows = in.b,
                                                           .a_log = in.a_log,
                                                           .dt_bias = in.dt_bias,
                                                           .boundary = args.initial_state,
                                                           .documents = in.documents,
                                                           .offsets = offsets,
                                                           .segments = segments});
}

absl::StatusOr<Tensor> StateGradientsAfterSegments(Execution& execution,
                                                   const SelectiveScanBackwardArgs& args,
                                                   const int32_t* offsets,
                                                   const ScanSegments& segments) {
  const SelectiveScanInputs& in = args.in;
  return StatesAtSegments<Direction::kBackward>(execution, {.z = in.z,
                                                            .dy = args.dy,
                                                            .dt = in.dt,
                                                            .rows = in.c,
                                                            .a_log = in.a_log,
                                                            .dt_bias = in.dt_bias,
                                                            .boundary = args.dfinal_state,
                                                            .documents = in.documents,
                                                            .offsets = offsets,
                                                            .segments = segments});
}

KernelScratch::Blocks StatesAtSegmentsScratch(const ScanScratchShape& shape,
                                              const ScanSegments& segments) {
  const auto size = static_cast<int64_t>(SizeOf(StatisticsDType(shape.dtype)));
  const int64_t sums = segments.count() * shape.channels * size, states = shape.states * sums;
  return {states, states, sums};
}

absl::StatusOr<Tensor> CopyOfStates(Execution& execution, const ConstMatrixView& states) {
  Tensor copy = execution.Empty(states.dtype, {states.rows, states.columns});
  PLAIT_RETURN_IF_ERROR(DispatchWide(states.dtype, [&](auto a) {
    using A = typename decltype(a)::Type;
    return ToStatus(
        LaunchKernel(CopyKernel<A>, {BlocksFor(states.rows * states.columns, kScanThreads)},
                     {static_cast<unsigned>(kScanThreads)}, 0, execution.compute().handle(), states,
                     copy.data<A>()),
        "selective_scan");
  }));
  return copy;
}

std::string AcceptsSelectiveScanSummaryForward(const SelectiveScanSummaryForwardArgs& args) {
  const DType dtype = args.x.dtype, inner = StatisticsDType(dtype);
  if (!IsFloating(dtype)) return "dtypes other than bf16, f32 and f64";
  if (args.dt.dtype != dtype || args.b.dtype != dtype) return "dt or b is not of the dtype of x";
  if (args.a_log.dtype != inner || args.dt_bias.dtype != inner) {
    return "a_log or dt_bias of another precision";
  }
  if (args.final_state.dtype != inner || args.delta_sum.dtype != inner) {
    return "final_state or delta_sum of another precision";
  }
  if (SummaryBlock(inner, args.x.columns, args.b.columns).threads == 0) return kTooManyStates;
  return "";
}

absl::Status SelectiveScanSummaryForward(Execution& execution,
                                         const SelectiveScanSummaryForwardArgs& args) {
  return SummarizeDocument<Direction::kForward>(
      execution,
      {.x = args.x, .dt = args.dt, .rows = args.b, .a_log = args.a_log, .dt_bias = args.dt_bias},
      args.final_state, args.delta_sum);
}

std::string AcceptsSelectiveScanSummaryBackward(const SelectiveScanSummaryBackwardArgs& args) {
  const DType dtype = args.dt.dtype, inner = StatisticsDType(dtype);
  if (!IsFloating(dtype)) return "dtypes other than bf16, f32 and f64";
  if (args.z.dtype != dtype || args.c.dtype != dtype || args.dy.dtype != dtype) {
    return "z, c or dy is not of the dtype of dt";
  }
  if (args.a_log.dtype != inner || args.dt_bias.dtype != inner) {
    return "a_log or dt_bias of another precision";
  }
  if (args.dinitial_state.dtype != inner || args.delta_sum.dtype != inner) {
    return "dinitial_state or delta_sum of another precision";
  }
  if (SummaryBlock(inner, args.dt.columns, args.c.columns).threads == 0) return kTooManyStates;
  return "";
}

absl::Status SelectiveScanSummaryBackward(Execution& execution,
                                          const SelectiveScanSummaryBackwardArgs& args) {
  return SummarizeDocument<Direction::kBackward>(execution,
                                                 {.z = args.z,
                                                  .dy = args.dy,
                                                  .dt = args.dt,
                                                  .rows = args.c,
                                                  .a_log = args.a_log,
                                                  .dt_bias = args.dt_bias},
                                                 args.dinitial_state, args.delta_sum);
}

std::string AcceptsSelectiveScanCarry(const SelectiveScanCarryArgs& args) {
  const DType inner = args.a_log.dtype;
  if (inner != DType::kF32 && inner != DType::kF64) return "a_log is neither f32 nor f64";
  if (args.delta_sum.dtype != inner || args.local.dtype != inner || args.state.dtype != inner) {
    return "delta_sum or a state of another precision than a_log";
  }
  return "";
}

absl::Status SelectiveScanCarry(Execution& execution, const SelectiveScanCarryArgs& args) {
  if (args.a_log.rows == 0) return absl::OkStatus();
  return DispatchWide(args.a_log.dtype, [&](auto a) {
    using A = typename decltype(a)::Type;
    return ToStatus(
        LaunchKernel(CarryKernel<A>,
                     {BlocksFor(args.a_log.rows * args.a_log.columns, kScanThreads)},
                     {static_cast<unsigned>(kScanThreads)}, 0, execution.compute().handle(), args),
        "selective_scan_carry");
  });
}

}  // namespace plait::cuda
