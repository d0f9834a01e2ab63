#include <numeric>

#include "base/status_macros.h"
#include "kernels/cuda/any_floating.h"
#include "kernels/cuda/device.h"
#include "kernels/cuda/device_copies.h"
#include "kernels/cuda/dispatch.h"
#include "kernels/cuda/reduction.h"
#include "kernels/cuda/selective_scan.h"
#include "kernels/cuda/selective_scan_device.h"

namespace plait::cuda {
namespace {

constexpr int kSteps = kScanTile / kScanStep;
static_assert(kScanStep * kScanStates == kWarpThreads);

// Adds the halves of the first 2 kHalf values over pairs of lanes, and so on: each lane keeps the
// half of the values that its lane number's bit names.
template <int kHalf, class A>
__device__ __forceinline__ void FoldLanes(A (&values)[kWarpThreads]) {
  const bool upper = (static_cast<int>(threadIdx.x) & kHalf) != 0;
  PLAIT_UNROLL
  for (int i = 0; i < kHalf; ++i) {
    const A kept = upper ? values[i + kHalf] : values[i];
    const A given = upper ? values[i] : values[i + kHalf];
    values[i] = kept + __shfl_xor_sync(kWholeWarp, given, kHalf);
  }
  if constexpr (kHalf > 1) FoldLanes<kHalf / 2>(values);
}

// Lane i gets the sum over the lanes of their values[i]. Leaves other numbers in `values`.
template <class A>
__device__ __forceinline__ A TransposedWarpSum(A (&values)[kWarpThreads]) {
  FoldLanes<kWarpThreads / 2>(values);
  return values[0];
}

// Where the parts of a block's shared memory are; columns have a number for each thread.
template <class A>
struct BackwardShared {
  __device__ __forceinline__ BackwardShared(A* shared, int padded_in, int threads_in)
      : padded(padded_in), threads(threads_in) {
    b_rows = shared;
    c_rows = b_rows + kScanTile * padded;
    row_sums = c_rows + kScanTile * padded;
    // Columns, from this thread's number on.
    exponents = row_sums + threads / kWarpThreads * kScanTile * 2 * padded + threadIdx.x;
    g = exponents + padded * threads;
    da = g + padded * threads;
    h = da + padded * threads;
    x = h + kSteps * padded * threads;
    dt_slope = x + kScanStep * threads;
    dz_factor = dt_slope + kScanStep * threads;
  }
  static constexpr int64_t Elements(int64_t padded, int64_t threads) {
    return padded *
               (2 * kScanTile + threads / kWarpThreads * kScanTile * 2 + (3 + kSteps) * threads) +
           3 * kScanStep * threads;
  }

  int padded, threads;
  A *b_rows, *c_rows;  // [kScanTile, padded]
  A* row_sums;         // of db and dc: [warps, kScanTile, 2, padded]
  A* exponents;        // [padded] columns
  A* g;                // what reaches the token before
  A* da;               // sums of g delta exp(delta A) h
  A* h;                // at the begin of each step: [kSteps, padded] columns
  // Of a step's tokens, what only their outputs need: [kScanStep] columns.
  A *x, *dt_slope, *dz_factor;
};

// A stretch of tokens of one document inside of a step. The step's other tokens leave the state as
// it is: their delta, input and dyy are zero.
struct ScanRun {
  DeviceDocument document;
  int64_t begin, end;
  __device__ __forceinline__ bool starts() const { return begin == document.begin; }
  __device__ __forceinline__ bool ends() const { return end == document.end; }
};

// A state of a document, or its gradient; zero where it is absent or in the padding.
template <class A>
__device__ __forceinline__ A BoundaryState(const ConstMatrixView& from, const ScanRun& run,
                                           const ScanPlace& place, int states, int n) {
  if (!from || !place.active || n >= states) return A{0};
  return from.row<A>(run.document.index * states + n)[place.channel];
}

// h at the begin of every step of the tile but the first, which shared.h has.
template <class T>
__device__ __forceinline__ void ForwardOverTile(const SelectiveScanBackwardArgs& args,
                                                const int32_t* offsets, const ScanPlace& place,
                                                const DeviceDocument& last_document, int states,
                                                Accumulator<T> bias, int64_t tile, int64_t tile_end,
                                                const BackwardShared<Accumulator<T>>& shared) {
  using A = Accumulator<T>;
  for (int step = 0; tile + (step + 1) * kScanStep < tile_end; ++step) {
    const int64_t first = tile + step * kScanStep;
    ScanRun run;
    run.end = first + kScanStep;
    run.document = last_document.begin < run.end
                       ? last_document
                       : DocumentOf(offsets, args.in.documents, run.end - 1);
    run.begin = run.document.begin > first ? run.document.begin : first;
    T x[kScanStep], dt[kScanStep];
    LoadTokens(args.in.x, place.channel, first, place.begin, place.end, x);
    LoadTokens(args.in.dt, place.channel, first, place.begin, place.end, dt);
    A delta[kScanStep], input[kScanStep];
    PLAIT_UNROLL
    for (int i = 0; i < kScanStep; ++i) {
      const bool inside = place.active && first + i >= run.begin;
      delta[i] = inside ? Softplus(Load(dt[i]) + bias) : A{0};
      input[i] = inside ? delta[i] * Load(x[i]) : A{0};
    }
    for (int n = 0; n < shared.padded; n += kScanStates) {
      A h[kScanStates], exponent[kScanStates];
      PLAIT_UNROLL
      for (int j = 0; j < kScanStates; ++j) {
        const int column = (n + j) * shared.threads;
        exponent[j] = shared.exponents[column];
        h[j] = run.starts() ? BoundaryState<A>(args.initial_state, run, place, states, n + j)
                            : shared.h[step * shared.padded * shared.threads + column];
      }
      PLAIT_UNROLL
      for (int i = 0; i < kScanStep; ++i) {
        const FourStates<A> b(shared.b_rows + (step * kScanStep + i) * shared.padded + n);
        PLAIT_UNROLL
        for (int j = 0; j < kScanStates; ++j) {
          h[j] = ScanExp2(delta[i] * exponent[j]) * h[j] + input[i] * b.values[j];
        }
      }
      PLAIT_UNROLL
      for (int j = 0; j < kScanStates; ++j) {
        shared.h[((step + 1) * shared.padded + n + j) * shared.threads] = h[j];
      }
    }
  }
}

// Sums over a step's states, by token.
template <class A>
struct StepSums {
  A u[kScanStep] = {};       // h C
  A g_b[kScanStep] = {};     // g B
  A ddelta[kScanStep] = {};  // g exp(delta A) h[t-1] A log2(e)
};

// Four states of a run, from n on.
template <class A>
__device__ __forceinline__ void BackwardOverStates(
    const SelectiveScanBackwardArgs& args, const ScanPlace& place, const ScanRun& run, int step,
    int64_t first, int states, int n, const A (&delta)[kScanStep], const A (&input)[kScanStep],
    const A (&dyy)[kScanStep], const BackwardShared<A>& shared, StepSums<A>* sums) {
  A exponent[kScanStates], g[kScanStates], da[kScanStates] = {};
  A h[kScanStep + 1][kScanStates], decay[kScanStep][kScanStates];
  PLAIT_UNROLL
  for (int j = 0; j < kScanStates; ++j) {
    const int column = (n + j) * shared.threads;
    exponent[j] = shared.exponents[column];
    h[0][j] = run.starts() ? BoundaryState<A>(args.initial_state, run, place, states, n + j)
                           : shared.h[step * shared.padded * shared.threads + column];
    g[j] = run.ends() ? BoundaryState<A>(args.dfinal_state, run, place, states, n + j)
                      : shared.g[column];
  }
  const A* b_rows = shared.b_rows + step * kScanStep * shared.padded + n;
  const A* c_rows = shared.c_rows + step * kScanStep * shared.padded + n;
  PLAIT_UNROLL
  for (int i = 0; i < kScanStep; ++i) {
    const FourStates<A> b(b_rows + i * shared.padded);
    PLAIT_UNROLL
    for (int j = 0; j < kScanStates; ++j) {
      decay[i][j] = ScanExp2(delta[i] * exponent[j]);
      h[i + 1][j] = decay[i][j] * h[i][j] + input[i] * b.values[j];
    }
  }
  A products[kWarpThreads];  // token by token
  PLAIT_UNROLL
  for (int i = 0; i < kScanStep; ++i) {
    const FourStates<A> c(c_rows + i * shared.padded);
    PLAIT_UNROLL
    for (int j = 0; j < kScanStates; ++j) {
      sums->u[i] += h[i + 1][j] * c.values[j];
      products[i * kScanStates + j] = dyy[i] * h[i + 1][j];
    }
  }
  const A dc_sum = TransposedWarpSum(products);
  PLAIT_UNROLL
  for (int i = kScanStep - 1; i >= 0; --i) {
    const FourStates<A> b(b_rows + i * shared.padded);
    const FourStates<A> c(c_rows + i * shared.padded);
    PLAIT_UNROLL
    for (int j = 0; j < kScanStates; ++j) {
      g[j] += c.values[j] * dyy[i];
      products[i * kScanStates + j] = g[j] * input[i];
      sums->g_b[i] += g[j] * b.values[j];
      const A carried = g[j] * (decay[i][j] * h[i][j]);
      sums->ddelta[i] += carried * exponent[j];
      da[j] += carried * delta[i];
      g[j] *= decay[i][j];
    }
  }
  const A db_sum = TransposedWarpSum(products);
  PLAIT_UNROLL
  for (int j = 0; j < kScanStates; ++j) {
    const int column = (n + j) * shared.threads;
    shared.g[column] = g[j];
    shared.da[column] += da[j];
    if (run.starts() && args.dinitial_state && place.active && n + j < states) {
      args.dinitial_state.row<A>(run.document.index * states + n + j)[place.channel] = g[j];
    }
  }
  // This lane's token and state.
  const int lane = static_cast<int>(threadIdx.x) % kWarpThreads;
  const int warp = static_cast<int>(threadIdx.x) / kWarpThreads;
  const int64_t t = first + lane / kScanStates;
  if (t < run.begin || t >= run.end) return;
  A* row = shared.row_sums +
           ((warp * kScanTile + step * kScanStep + lane / kScanStates) * 2) * shared.padded;
  row[n + lane % kScanStates] = db_sum;
  row[shared.padded + n + lane % kScanStates] = dc_sum;
}

// gradients_after: [segments x states, channels], of segments that end inside a document.
// row_partials: of db and dc, [blocks of channels, tokens, 2, padded states]. parameter_partials:
// of each segment the sums of da (without A), then dd, then ddt_bias: [segments, states + 2,
// channels].
template <class T>
__global__ void __launch_bounds__(kScanThreads)
    BackwardKernel(SelectiveScanBackwardArgs args, ScanSegments segments, const int32_t* offsets,
                   ConstMatrixView gradients_after, Accumulator<T>* row_partials,
                   Accumulator<T>* parameter_partials) {
  using A = Accumulator<T>;
  PLAIT_DYNAMIC_SHARED(A, shared_elements);
  const SelectiveScanInputs& in = args.in;
  const int states = static_cast<int>(in.b.columns);
  const int padded = static_cast<int>(PaddedStates(states));
  const int threads = static_cast<int>(blockDim.x);
  const int64_t tokens = in.x.rows, channels = in.x.columns;
  const BackwardShared<A> shared(shared_elements, padded, threads);
  const ScanPlace place = TakeScanPlace(segments, channels);
  const A skip = in.d.as<A>()[place.channel], bias = in.dt_bias.as<A>()[place.channel];
  for (int n = 0; n < padded; ++n) {
    shared.exponents[n * threads] =
        n < states ? DecayExponent(in.a_log.row<A>(place.channel)[n]) : A{0};
    shared.g[n * threads] = gradients_after && place.active && n < states
                                ? gradients_after.row<A>(place.segment * states + n)[place.channel]
                                : A{0};
    shared.da[n * threads] = 0;
  }
  A dd = 0, dbias = 0;
  T x_raw[kScanStep], dt_raw[kScanStep], z_raw[kScanStep], dy_raw[kScanStep];
  const auto load_step = [&](int64_t t) {
    LoadTokens(in.x, place.channel, t, place.begin, place.end, x_raw);
    LoadTokens(in.dt, place.channel, t, place.begin, place.end, dt_raw);
    LoadTokens(in.z, place.channel, t, place.begin, place.end, z_raw);
    LoadTokens(args.dy, place.channel, t, place.begin, place.end, dy_raw);
  };
  const bool any = place.begin < place.end;
  DeviceDocument document = {};
  if (any) {
    document = DocumentOf(offsets, in.documents, place.end - 1);
    load_step((place.end - 1) / kScanStep * kScanStep);
  }
  StateRows<T, 0> rows;
  for (int64_t tile = any ? (place.end - 1) / kScanTile * kScanTile : -1; tile >= place.begin;
       tile -= kScanTile) {
    const int64_t tile_end = tile + kScanTile < place.end ? tile + kScanTile : place.end;
    rows.Store(in.b, tile, tile_end, shared.b_rows);
    rows.Store(in.c, tile, tile_end, shared.c_rows);
    for (int n = 0; n < padded; ++n) {
      shared.h[n * threads] =
          tile > 0 && place.active && n < states
              ? args.checkpoints.row<A>((tile / kScanTile - 1) * states + n)[place.channel]
              : A{0};
    }
    __syncthreads();
    ForwardOverTile<T>(args, offsets, place, document, states, bias, tile, tile_end, shared);
    for (int step = static_cast<int>((tile_end - 1 - tile) / kScanStep); step >= 0; --step) {
      const int64_t first = tile + step * kScanStep;
      int64_t end = first + kScanStep < tile_end ? first + kScanStep : tile_end;
      while (end > first) {
        if (end <= document.begin) document = PreviousDocument(offsets, document);
        const ScanRun run = {document, document.begin > first ? document.begin : first, end};
        A delta[kScanStep], input[kScanStep], dyy[kScanStep];
        PLAIT_UNROLL
        for (int i = 0; i < kScanStep; ++i) {
          const bool inside = place.active && first + i >= run.begin && first + i < run.end;
          const A before_softplus = Load(dt_raw[i]) + bias;
          const A z = Load(z_raw[i]), dy = Load(dy_raw[i]), sigmoid = Logistic(z);
          const A x = inside ? Load(x_raw[i]) : A{0};
          delta[i] = inside ? Softplus(before_softplus) : A{0};
          input[i] = delta[i] * x;
          dyy[i] = inside ? dy * z * sigmoid : A{0};
          shared.x[i * threads] = x;
          shared.dt_slope[i * threads] = Logistic(before_softplus);
          shared.dz_factor[i * threads] = dy * SiluSlope(z, sigmoid);
        }
        if (run.begin == first) load_step(first - kScanStep);
        StepSums<A> sums;
        for (int n = 0; n < padded; n += kScanStates) {
          BackwardOverStates(args, place, run, step, first, states, n, delta, input, dyy, shared,
                             &sums);
        }
        PLAIT_UNROLL
        for (int i = 0; i < kScanStep; ++i) {
          const int64_t t = first + i;
          if (!place.active || t < run.begin || t >= run.end) continue;
          const A x = shared.x[i * threads];
          const A ddt = (static_cast<A>(kLn2) * sums.ddelta[i] + x * sums.g_b[i]) *
                        shared.dt_slope[i * threads];
          args.dx.row<T>(t)[place.channel] = Round<T>(delta[i] * sums.g_b[i] + skip * dyy[i]);
          args.ddt.row<T>(t)[place.channel] = Round<T>(ddt);
          args.dz.row<T>(t)[place.channel] =
              Round<T>((sums.u[i] + skip * x) * shared.dz_factor[i * threads]);
          dd += dyy[i] * x;
          dbias += ddt;
        }
        end = run.begin;
      }
    }
    __syncthreads();
    const int64_t row_elements = 2 * padded;
    A* partial = row_partials + (static_cast<int64_t>(blockIdx.x) * tokens + tile) * row_elements;
    const auto count = static_cast<int>((tile_end - tile) * row_elements);
    for (int i = static_cast<int>(threadIdx.x); i < count; i += threads) {
      A sum = shared.row_sums[i];
      for (int warp = 1; warp < threads / kWarpThreads; ++warp) {
        sum += shared.row_sums[warp * kScanTile * static_cast<int>(row_elements) + i];
      }
      partial[i] = sum;
    }
  }
  if (!place.active) return;
  A* partial = parameter_partials + place.segment * (states + 2) * channels + place.channel;
  for (int n = 0; n < states; ++n) partial[n * channels] = shared.da[n * threads];
  partial[states * channels] = dd;
  partial[(states + 1) * channels] = dbias;
}

// A document without tokens passes its state's gradient through.
template <class A>
__global__ void __launch_bounds__(kScanThreads)
    PassEmptyDocumentsKernel(SelectiveScanBackwardArgs args, const int32_t* offsets) {
  const int64_t channels = args.in.x.columns, states = args.in.b.columns;
  const int64_t channel = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (channel >= channels) return;
  for (int64_t document = 0; document < args.in.documents; ++document) {
    if (offsets[document] < offsets[document + 1]) continue;
    for (int64_t row = document * states; row < (document + 1) * states; ++row) {
      args.dinitial_state.row<A>(row)[channel] =
          args.dfinal_state ? args.dfinal_state.row<A>(row)[channel] : A{0};
    }
  }
}

// A thread takes one element of a row of db or dc, over all blocks.
template <class A>
__global__ void __launch_bounds__(kScanThreads)
    AddRowPartialsKernel(const A* partials, int64_t blocks, MatrixView db, MatrixView dc) {
  const int64_t thread = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  const int64_t padded = PaddedStates(db.columns), row_elements = 2 * padded;
  const int64_t t = thread / row_elements, n = thread % padded;
  if (t >= db.rows || n >= db.columns) return;
  A sum = 0;
  for (int64_t block = 0; block < blocks; ++block) {
    sum += partials[block * db.rows * row_elements + thread];
  }
  StoreAny(thread % row_elements < padded ? db : dc, t, n, sum);
}

// A thread takes one parameter of a channel, over all segments.
template <class A>
__global__ void __launch_bounds__(kScanThreads)
    AddParameterPartialsKernel(SelectiveScanBackwardArgs args, const A* partials,
                               int64_t segments) {
  const int64_t thread = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  const int64_t channels = args.in.x.columns, states = args.in.b.columns;
  const int64_t n = thread / channels, channel = thread % channels;
  if (n >= states + 2) return;
  A sum = 0;
  for (int64_t segment = 0; segment < segments; ++segment) {
    sum += partials[segment * (states + 2) * channels + thread];
  }
  if (n < states) {
    const A a = static_cast<A>(kLn2) * DecayExponent(args.in.a_log.row<A>(channel)[n]);
    args.da_log.row<A>(channel)[n] += a * sum;
  } else {
    (n == states ? args.dd : args.ddt_bias).as<A>()[channel] += sum;
  }
}

template <class A>
ScanBlock BackwardBlock(int64_t channels, int64_t states) {
  return MakeScanBlock(channels, [&](int threads) {
    return static_cast<size_t>(BackwardShared<A>::Elements(PaddedStates(states), threads)) *
           sizeof(A);
  });
}

template <class T>
absl::Status Backward(Execution& execution, SelectiveScanBackwardArgs args) {
  using A = Accumulator<T>;
  constexpr const char* kName = "selective_scan backward";
  constexpr auto kThreads = static_cast<unsigned>(kScanThreads);
  StreamHandle stream = execution.compute().handle();
  const SelectiveScanInputs& in = args.in;
  const int64_t tokens = in.x.rows, channels = in.x.columns, states = in.b.columns;
  PLAIT_ASSIGN_OR_RETURN(const int32_t* offsets,
                         DeviceCopy(execution, in.document_offsets, in.documents + 1));
  const ScanSegments segments = CutIntoScanSegments(tokens, channels);
  Tensor after, dfinal;
  ConstMatrixView gradients_after;
  if (segments.count() > 1) {
    PLAIT_ASSIGN_OR_RETURN(after, StateGradientsAfterSegments(execution, args, offsets, segments));
    gradients_after = after.matrix();
    // One segment may read the gradient at a document's end when another writes that at its begin.
    if (args.dfinal_state && args.dfinal_state.data == args.dinitial_state.data) {
      PLAIT_ASSIGN_OR_RETURN(dfinal, CopyOfStates(execution, args.dfinal_state));
      args.dfinal_state = dfinal.matrix();
    }
  }
  if (args.dinitial_state) {
    PLAIT_RETURN_IF_ERROR(
        ToStatus(LaunchKernel(PassEmptyDocumentsKernel<A>, {BlocksFor(channels, kScanThreads)},
                              {kThreads}, 0, stream, args, offsets),
                 kName));
  }
  if (tokens == 0) return absl::OkStatus();
  const ScanBlock block = BackwardBlock<A>(channels, states);
  const int64_t blocks = (channels + block.threads - 1) / block.threads;
  const DType inner = StatisticsDType(in.x.dtype);
  Tensor row_partials = execution.Empty(inner, {blocks, tokens, 2 * PaddedStates(states)});
  Tensor parameter_partials = execution.Empty(inner, {segments.count(), states + 2, channels});
  PLAIT_RETURN_IF_ERROR(ToStatus(
      LaunchKernel(BackwardKernel<T>,
                   {static_cast<unsigned>(blocks), static_cast<unsigned>(segments.count())},
                   {static_cast<unsigned>(block.threads)}, block.shared_bytes, stream, args,
                   segments, offsets, gradients_after, row_partials.data<A>(),
                   parameter_partials.data<A>()),
      kName));
  PLAIT_RETURN_IF_ERROR(ToStatus(
      LaunchKernel(AddRowPartialsKernel<A>,
                   {BlocksFor(tokens * 2 * PaddedStates(states), kScanThreads)}, {kThreads}, 0,
                   stream, row_partials.data<A>(), blocks, args.db, args.dc),
      kName));
  return ToStatus(LaunchKernel(AddParameterPartialsKernel<A>,
                               {BlocksFor((states + 2) * channels, kScanThreads)}, {kThreads}, 0,
                               stream, args, parameter_partials.data<A>(), segments.count()),
                  kName);
}

}  // namespace

std::string AcceptsSelectiveScanBackward(const SelectiveScanBackwardArgs& args) {
  const DType inner = StatisticsDType(args.in.x.dtype);
  for (const ConstMatrixView& view : {args.checkpoints, args.initial_state, args.dfinal_state,
                                      ConstMatrixView(args.dinitial_state)}) {
    if (view && view.dtype != inner) return "checkpoints or a state of another precision";
  }
  if (args.da_log.dtype != inner || args.dd.dtype != inner || args.ddt_bias.dtype != inner) {
    return "a parameter's gradient of another precision";
  }
  if (!IsFloating(args.db.dtype) || !IsFloating(args.dc.dtype)) {
    return "db or dc is neither bf16, f32 nor f64";
  }
  const ScanBlock block = inner == DType::kF64
                              ? BackwardBlock<double>(args.in.x.columns, args.in.b.columns)
                              : BackwardBlock<float>(args.in.x.columns, args.in.b.columns);
  if (block.threads == 0) return kTooManyStates;
  return AcceptsSelectiveScanInputs(args.in);
}

absl::Status SelectiveScanBackward(Execution& execution, const SelectiveScanBackwardArgs& args) {
  if (args.in.documents == 0 || args.in.x.columns == 0) return absl::OkStatus();
  return DispatchFloating(args.in.x.dtype, [&](auto t) {
    return Backward<typename decltype(t)::Type>(execution, args);
  });
}

KernelScratch::Blocks SelectiveScanBackwardScratch(const ScanScratchShape& shape) {
  if (shape.tokens == 0 || shape.channels == 0) return {};
  const DType inner = StatisticsDType(shape.dtype);
  const auto size = static_cast<int64_t>(SizeOf(inner));
  const ScanSegments segments = CutIntoScanSegments(shape.tokens, shape.channels);
  const ScanBlock block = inner == DType::kF64 ? BackwardBlock<double>(shape.channels, shape.states)
                                               : BackwardBlock<float>(shape.channels, shape.states);
  if (block.threads == 0) return {};
  const int64_t blocks = (shape.channels + block.threads - 1) / block.threads;
  KernelScratch::Blocks scan = {blocks * shape.tokens * 2 * PaddedStates(shape.states) * size,
                                segments.count() * (shape.states + 2) * shape.channels * size};
  if (segments.count() == 1) return scan;
  // First the states at segments, then what the scan itself takes beside them.
  KernelScratch::Blocks summaries = StatesAtSegmentsScratch(shape, segments);
  scan.insert(scan.begin(), summaries[0]);
  const auto sum = [](const KernelScratch::Blocks& bytes) {
    return std::accumulate(bytes.begin(), bytes.end(), int64_t{0});
  };
  return sum(summaries) > sum(scan) ? summaries : scan;
}

}  // namespace plait::cuda
