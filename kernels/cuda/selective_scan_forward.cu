#include "base/status_macros.h"
#include "kernels/cuda/device.h"
#include "kernels/cuda/device_copies.h"
#include "kernels/cuda/dispatch.h"
#include "kernels/cuda/selective_scan.h"
#include "kernels/cuda/selective_scan_device.h"

namespace plait::cuda {
namespace {

// A document without tokens keeps its state.
template <class A>
__device__ __forceinline__ void PassEmptyDocuments(const SelectiveScanForwardArgs& args,
                                                   const int32_t* offsets, const ScanPlace& place,
                                                   int states) {
  if (!args.final_state || place.segment > 0 || !place.active) return;
  for (int64_t document = 0; document < args.in.documents; ++document) {
    if (offsets[document] < offsets[document + 1]) continue;
    for (int n = 0; n < states; ++n) {
      const int64_t row = document * states + n;
      args.final_state.row<A>(row)[place.channel] =
          args.initial_state ? args.initial_state.row<A>(row)[place.channel] : A{0};
    }
  }
}

// states_before: [segments x states, channels], of segments that begin inside a document.
template <class T, int kStates>
__global__ void __launch_bounds__(kScanThreads)
    ForwardKernel(SelectiveScanForwardArgs args, ScanSegments segments, const int32_t* offsets,
                  ConstMatrixView states_before) {
  using A = Accumulator<T>;
  PLAIT_DYNAMIC_SHARED(A, shared);
  const SelectiveScanInputs& in = args.in;
  const int states = kStates > 0 ? kStates : static_cast<int>(in.b.columns);
  const int padded = kStates > 0 ? kStates : static_cast<int>(PaddedStates(states));
  const int threads = static_cast<int>(blockDim.x);
  const ScanPlace place = TakeScanPlace(segments, in.x.columns);
  A* const b_rows = shared;
  A* const c_rows = b_rows + kScanTile * padded;
  // Of each token of a step, this thread's own column: delta, and delta x, which y takes the place
  // of.
  A* const deltas = c_rows + kScanTile * padded + threadIdx.x;
  A* const inputs = deltas + kScanStep * threads;
  StateColumn<A, kStates> h(inputs + kScanStep * threads, threads);
  StateColumn<A, kStates> exponents(inputs + (kScanStep + padded) * threads, threads);

  PassEmptyDocuments<A>(args, offsets, place, states);
  if (place.begin >= place.end) return;
  LoadDecayExponents<A>(in.a_log, place.channel, states, padded, exponents);
  const A skip = in.d.as<A>()[place.channel], bias = in.dt_bias.as<A>()[place.channel];
  DeviceDocument document = DocumentOf(offsets, in.documents, place.begin);
  if (document.begin == place.begin) {
    LoadStates<A>(args.initial_state, document.index * states, place, states, padded, h);
  } else {
    LoadStates<A>(states_before, place.segment * states, place, states, padded, h);
  }

  StateRows<T, kStates> next_b, next_c;
  T next_x[kScanStep], next_dt[kScanStep], next_z[kScanStep];
  const auto load_step = [&](int64_t t) {
    LoadTokens(in.x, place.channel, t, place.begin, place.end, next_x);
    LoadTokens(in.dt, place.channel, t, place.begin, place.end, next_dt);
    LoadTokens(in.z, place.channel, t, place.begin, place.end, next_z);
  };
  next_b.Load(in.b, place.begin, place.end);
  next_c.Load(in.c, place.begin, place.end);
  load_step(place.begin);
  for (int64_t tile = place.begin; tile < place.end; tile += kScanTile) {
    const int64_t tile_end = tile + kScanTile < place.end ? tile + kScanTile : place.end;
    __syncthreads();
    next_b.Store(in.b, tile, place.end, b_rows);
    next_c.Store(in.c, tile, place.end, c_rows);
    __syncthreads();
    next_b.Load(in.b, tile_end, place.end);
    next_c.Load(in.c, tile_end, place.end);
    for (int64_t first = tile; first < tile_end; first += kScanStep) {
      A skipped[kScanStep], gate[kScanStep];
      PLAIT_UNROLL
      for (int i = 0; i < kScanStep; ++i) {
        const A x = Load(next_x[i]), z = Load(next_z[i]);
        const A delta = Softplus(Load(next_dt[i]) + bias);
        deltas[i * threads] = delta;
        inputs[i * threads] = delta * x;
        skipped[i] = skip * x;
        gate[i] = z * Logistic(z);
      }
      load_step(first + kScanStep);
      const int count =
          static_cast<int>(first + kScanStep < tile_end ? kScanStep : tile_end - first);
      for (int i = 0; i < count; ++i) {
        if (first + i == document.end) {
          document = NextDocument(offsets, document);
          LoadStates<A>(args.initial_state, document.index * states, place, states, padded, h);
        }
        const A delta = deltas[i * threads], input = inputs[i * threads];
        const A* b = b_rows + (first - tile + i) * padded;
        const A* c = c_rows + (first - tile + i) * padded;
        A even = 0, odd = 0;
        PLAIT_UNROLL
        for (int n = 0; n < padded; n += kScanStates) {
          const FourStates<A> b4(b + n);
          const FourStates<A> c4(c + n);
          PLAIT_UNROLL
          for (int j = 0; j < kScanStates; ++j) {
            const A state = ScanExp2(delta * exponents[n + j]) * h[n + j] + input * b4.values[j];
            h[n + j] = state;
            (j % 2 == 0 ? even : odd) += state * c4.values[j];
          }
        }
        inputs[i * threads] = even + odd;
        if (first + i + 1 == document.end) {
          StoreStates<A>(args.final_state, document.index * states, place, states, h);
        }
      }
      PLAIT_UNROLL
      for (int i = 0; i < kScanStep; ++i) {
        if (i < count && place.active) {
          args.y.row<T>(first + i)[place.channel] =
              Round<T>((inputs[i * threads] + skipped[i]) * gate[i]);
        }
      }
    }
    StoreStates<A>(args.checkpoints, tile / kScanTile * states, place, states, h);
  }
}

template <class A>
ScanBlock ForwardBlock(int64_t channels, int64_t states) {
  const bool in_registers = states == 8 || states == 16;
  return MakeScanBlock(channels, [&](int threads) {
    const int64_t columns = 2 * kScanStep + (in_registers ? 0 : 2 * PaddedStates(states));
    const int64_t elements = 2 * kScanTile * PaddedStates(states) + columns * threads;
    return static_cast<size_t>(elements) * sizeof(A);
  });
}

template <class T>
absl::Status Forward(Execution& execution, SelectiveScanForwardArgs args) {
  using A = Accumulator<T>;
  const SelectiveScanInputs& in = args.in;
  const int64_t channels = in.x.columns, states = in.b.columns;
  PLAIT_ASSIGN_OR_RETURN(const int32_t* offsets,
                         DeviceCopy(execution, in.document_offsets, in.documents + 1));
  const ScanSegments segments = CutIntoScanSegments(in.x.rows, channels);
  Tensor before, initial;
  ConstMatrixView states_before;
  if (segments.count() > 1) {
    PLAIT_ASSIGN_OR_RETURN(before, StatesBeforeSegments(execution, args, offsets, segments));
    states_before = before.matrix();
    // One segment may read the initial state of a document when another writes its final state.
    if (args.initial_state && args.initial_state.data == args.final_state.data) {
      PLAIT_ASSIGN_OR_RETURN(initial, CopyOfStates(execution, args.initial_state));
      args.initial_state = initial.matrix();
    }
  }
  const ScanBlock block = ForwardBlock<A>(channels, states);
  const auto blocks = static_cast<unsigned>((channels + block.threads - 1) / block.threads);
  return DispatchStates(states, [&](auto count) {
    return ToStatus(
        LaunchKernel(ForwardKernel<T, count()>, {blocks, static_cast<unsigned>(segments.count())},
                     {static_cast<unsigned>(block.threads)}, block.shared_bytes,
                     execution.compute().handle(), args, segments, offsets, states_before),
        "selective_scan forward");
  });
}

}  // namespace

std::string AcceptsSelectiveScanForward(const SelectiveScanForwardArgs& args) {
  const DType inner = StatisticsDType(args.in.x.dtype);
  for (const ConstMatrixView& view :
       {ConstMatrixView(args.checkpoints), args.initial_state, ConstMatrixView(args.final_state)}) {
    if (view && view.dtype != inner) return "checkpoints or a state of another precision";
  }
  const ScanBlock block = inner == DType::kF64
                              ? ForwardBlock<double>(args.in.x.columns, args.in.b.columns)
                              : ForwardBlock<float>(args.in.x.columns, args.in.b.columns);
  if (block.threads == 0) return kTooManyStates;
  return AcceptsSelectiveScanInputs(args.in);
}

std::string AcceptsSelectiveScanInputs(const SelectiveScanInputs& in) {
  const DType dtype = in.x.dtype, inner = StatisticsDType(dtype);
  if (!IsFloating(dtype)) return "dtypes other than bf16, f32 and f64";
  for (const ConstMatrixView& view : {in.dt, in.z, in.b, in.c}) {
    if (view.dtype != dtype) return "dt, z, b or c is not of the dtype of x";
  }
  if (in.a_log.dtype != inner || in.d.dtype != inner || in.dt_bias.dtype != inner) {
    return "a_log, d or dt_bias of another precision";
  }
  return "";
}

absl::Status SelectiveScanForward(Execution& execution, const SelectiveScanForwardArgs& args) {
  if (args.in.documents == 0 || args.in.x.columns == 0) return absl::OkStatus();
  return DispatchFloating(args.in.x.dtype, [&](auto t) {
    return Forward<typename decltype(t)::Type>(execution, args);
  });
}

KernelScratch::Blocks SelectiveScanForwardScratch(const ScanScratchShape& shape) {
  const ScanSegments segments = CutIntoScanSegments(shape.tokens, shape.channels);
  if (segments.count() == 1) return {};
  return StatesAtSegmentsScratch(shape, segments);
}

}  // namespace plait::cuda
