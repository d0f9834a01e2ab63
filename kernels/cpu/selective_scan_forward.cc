#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/selective_scan_forward.cc"
#include "hwy/foreach_target.h"
// foreach_target first: it includes this file once per target.
#include <omp.h>

#include "kernels/cpu/selective_scan-inl.h"
#include "kernels/cpu/selective_scan.h"

HWY_BEFORE_NAMESPACE();
namespace plait::cpu::HWY_NAMESPACE {

// Scratch of one thread: what a line of channels needs over one tile of time, in the first cache.
struct ForwardScratch {
  ForwardScratch(float* memory, int64_t padded) {
    const auto take = [&](int64_t size) {
      float* taken = memory;
      memory += size;
      return taken;
    };
    delta = take(kTileLine), dx = take(kTileLine), y = take(kTileLine);
    gate = take(kTileLine);
    decay = take(kTileStates);
    a2 = take(padded * kLine), h = take(padded * kLine);
    b = take(kTile * padded + kLine), c = take(kTile * padded + kLine);
  }
  static int64_t Size(int64_t padded) {
    return 4 * kTileLine + kTileStates + 2 * padded * kLine + 2 * (kTile * padded + kLine);
  }

  // [vectors, tokens, lanes]: softplus; softplus x input; sum_n h C; exp(-|z|).
  float *delta, *dx, *y, *gate;
  float* decay;   // [tokens, kStateBlock, lanes]
  float *a2, *h;  // [padded states, kLine]
  float *b, *c;   // [tokens, padded states]
};

// Tokens [begin, end) of the tile, states [n, n + kStateBlock) of one vector of channels: h stays
// in registers, y collects the states' share.
HWY_NOINLINE void Recur(const ForwardScratch& scratch, int64_t padded, int64_t vector, int64_t n,
                        int64_t begin, int64_t end) {
  const F32Tag d;
  constexpr int kStates = kStateBlock;
  F32 h[kStates];
  for (int s = 0; s < kStates; ++s) {
    h[s] = hn::LoadU(d, scratch.h + (n + s) * kLine + vector * kLanes);
  }
  const float* b = scratch.b + begin * padded + n;
  const float* c = scratch.c + begin * padded + n;
  for (int64_t t = begin; t < end; ++t, b += padded, c += padded) {
    const F32 dx = hn::LoadU(d, scratch.dx + At(vector, t));
    F32 y = n == 0 ? hn::Zero(d) : hn::LoadU(d, scratch.y + At(vector, t));
    for (int s = 0; s < kStates; ++s) {
      const F32 decay = hn::LoadU(d, scratch.decay + (t * kStates + s) * kLanes);
      h[s] = hn::MulAdd(dx, hn::Set(d, b[s]), hn::Mul(decay, h[s]));
      y = hn::MulAdd(h[s], hn::Set(d, c[s]), y);
    }
    hn::StoreU(y, d, scratch.y + At(vector, t));
  }
  for (int s = 0; s < kStates; ++s) {
    hn::StoreU(h[s], d, scratch.h + (n + s) * kLine + vector * kLanes);
  }
}

void CopyStateIn(const ConstMatrixView& from, int64_t row, const Line& line, int64_t states,
                 float* h) {
  for (int64_t n = 0; n < states; ++n) {
    for (int64_t v = 0; v < line.vectors(); ++v) {
      hn::StoreU(line.Load(from.row<float>(row + n), v), F32Tag(), h + n * kLine + v * kLanes);
    }
  }
}
void CopyStateOut(const float* h, const Line& line, int64_t states, const MatrixView& to,
                  int64_t row) {
  for (int64_t n = 0; n < states; ++n) {
    for (int64_t v = 0; v < line.vectors(); ++v) {
      line.Store(hn::LoadU(F32Tag(), h + n * kLine + v * kLanes), to.row<float>(row + n), v);
    }
  }
}

// Softplus, gate and delta x of tokens [begin, end). Returns by vector whether a decay of the tile
// needs clamping. L: Line or WholeLine. Views by value: stores through vectors may alias anything
// else.
template <class T, class L>
HWY_NOINLINE void LoadTile(const SelectiveScanInputs& in, const MatrixView& y_view, const L line_in,
                           int64_t begin, int64_t end, const ForwardScratch& scratch_in,
                           bool* clamped) {
  const F32Tag d;
  const L line = line_in;
  const ForwardScratch scratch = scratch_in;
  const ConstMatrixView dts = in.dt, xs = in.x, zs = in.z, ys = y_view;
  const int64_t padded = PaddedStates(in.b.columns), last = xs.rows - 1;
  F32 largest_step[kVectors], bias[kVectors];
  bool whole[kVectors];
  for (int64_t v = 0; v < line.vectors(); ++v) {
    largest_step[v] = LargestStep(scratch.a2, padded, v);
    bias[v] = line.Load(in.dt_bias.as<float>(), v);
    whole[v] = true;
  }
  for (int64_t t = begin; t < end; ++t) {
    const int64_t ahead = std::min(t + kTile, last);
    line.Prefetch(dts.row<T>(ahead));
    line.Prefetch(xs.row<T>(ahead));
    line.Prefetch(zs.row<T>(ahead));
    line.Prefetch(ys.row<T>(t));
    const T *dt_row = dts.row<T>(t), *z_row = zs.row<T>(t);
    for (int64_t v = 0; v < line.vectors(); ++v) {
      const F32 dt = hn::Add(line.Load(dt_row, v), bias[v]);
      hn::StoreU(ExpOfMinusAbs(d, dt), d, scratch.delta + At(v, t - begin));
      hn::StoreU(ExpOfMinusAbs(d, line.Load(z_row, v)), d, scratch.gate + At(v, t - begin));
    }
  }
  for (int64_t t = begin; t < end; ++t) {
    const T *dt_row = dts.row<T>(t), *x_row = xs.row<T>(t);
    for (int64_t v = 0; v < line.vectors(); ++v) {
      float* at = scratch.delta + At(v, t - begin);
      const F32 dt = hn::Add(line.Load(dt_row, v), bias[v]);
      const F32 delta = Softplus(d, dt, hn::LoadU(d, at));
      hn::StoreU(delta, d, at);
      hn::StoreU(hn::Mul(delta, line.Load(x_row, v)), d, scratch.dx + At(v, t - begin));
      whole[v] &= hn::AllTrue(d, hn::Le(delta, largest_step[v]));
    }
  }
  for (int64_t v = 0; v < line.vectors(); ++v) clamped[v] = !whole[v];
}

// y of tokens [begin, end).
template <class T, class L>
HWY_NOINLINE void StoreTile(const SelectiveScanInputs& in, const MatrixView& y_view,
                            const L line_in, int64_t begin, int64_t end,
                            const ForwardScratch& scratch_in) {
  const F32Tag d;
  const L line = line_in;
  const ForwardScratch scratch = scratch_in;
  const ConstMatrixView xs = in.x, zs = in.z;
  const MatrixView ys = y_view;
  F32 skip[kVectors];
  for (int64_t v = 0; v < line.vectors(); ++v) skip[v] = line.Load(in.d.as<float>(), v);
  for (int64_t t = begin; t < end; ++t) {
    const T *x_row = xs.row<T>(t), *z_row = zs.row<T>(t);
    T* y_row = ys.row<T>(t);
    for (int64_t v = 0; v < line.vectors(); ++v) {
      const F32 x = line.Load(x_row, v), z = line.Load(z_row, v);
      const F32 y = hn::MulAdd(skip[v], x, hn::LoadU(d, scratch.y + At(v, t - begin)));
      const F32 gate = Logistic(d, z, hn::LoadU(d, scratch.gate + At(v, t - begin)));
      line.Store(hn::Mul(y, hn::Mul(z, gate)), y_row, v);
    }
  }
}

template <class T>
void ForwardLine(const SelectiveScanForwardArgs& args, const ScanSegments& segments,
                 const Line& line, const ForwardScratch& scratch) {
  const SelectiveScanInputs& in = args.in;
  const int64_t tokens = in.x.rows, states = in.b.columns, padded = PaddedStates(states);
  LoadDecayRates(in.a_log, line, scratch.a2);
  for (int64_t tile = 0; tile < segments.num_tiles(); ++tile) {
    const int64_t begin = tile * kTile, end = std::min(begin + kTile, tokens);
    LoadStateRows(in.b, begin, end, scratch.b);
    LoadStateRows(in.c, begin, end, scratch.c);
    bool clamped[kVectors];
    if (line.count == kLine) {
      LoadTile<T>(in, args.y, WholeLine(line), begin, end, scratch, clamped);
    } else {
      LoadTile<T>(in, args.y, line, begin, end, scratch, clamped);
    }
    for (const ScanSegment* segment = segments.begin(tile); segment != segments.end(tile);
         ++segment) {
      if (segment->starts) {
        std::fill(scratch.h, scratch.h + padded * kLine, 0.0f);
        if (args.initial_state) {
          CopyStateIn(args.initial_state, segment->document * states, line, states, scratch.h);
        }
      }
      for (int64_t v = 0; v < line.vectors(); ++v) {
        const auto decays = clamped[v] ? Decays<true> : Decays<false>;
        for (int64_t n = 0; n < padded; n += kStateBlock) {
          decays(scratch.a2, scratch.delta + At(v, 0), v, n, segment->begin - begin,
                 segment->end - begin, scratch.decay);
          Recur(scratch, padded, v, n, segment->begin - begin, segment->end - begin);
        }
      }
      if (segment->end == end && segment->begin < end && args.checkpoints) {
        CopyStateOut(scratch.h, line, states, args.checkpoints, tile * states);
      }
      if (segment->ends && args.final_state) {
        CopyStateOut(scratch.h, line, states, args.final_state, segment->document * states);
      }
    }
    if (line.count == kLine) {
      StoreTile<T>(in, args.y, WholeLine(line), begin, end, scratch);
    } else {
      StoreTile<T>(in, args.y, line, begin, end, scratch);
    }
  }
}

void ForwardAny(const SelectiveScanForwardArgs& args, Execution& execution) {
  const int64_t channels = args.in.x.columns, lines = (channels + kLine - 1) / kLine;
  const int64_t padded = PaddedStates(args.in.b.columns), size = ForwardScratch::Size(padded);
  const int num_threads = static_cast<int>(std::clamp<int64_t>(lines, 1, execution.num_threads()));
  const ScanSegments segments(args.in.documents, args.in.document_offsets);
  Tensor memory = execution.Empty(DType::kF32, {num_threads * size});
  float* scratch = memory.data<float>();
#pragma omp parallel for num_threads(num_threads) schedule(static)
  for (int64_t i = 0; i < lines; ++i) {
    const Line line{i * kLine, std::min(kLine, channels - i * kLine)};
    const ForwardScratch own(scratch + omp_get_thread_num() * size, padded);
    if (args.in.x.dtype == DType::kF32) {
      ForwardLine<float>(args, segments, line, own);
    } else {
      ForwardLine<BFloat16>(args, segments, line, own);
    }
  }
}

// NOLINTNEXTLINE(google-readability-namespace-comments)
}  // namespace plait::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace plait::cpu {
namespace {

HWY_EXPORT(ForwardAny);

}  // namespace

std::string AcceptsSelectiveScanInputs(const SelectiveScanInputs& in) {
  const DType dtype = in.x.dtype;
  if (dtype == DType::kF64) return "f64";
  if (in.dt.dtype != dtype || in.z.dtype != dtype) return "dt or z is not of the dtype of x";
  for (const ConstMatrixView& view : {in.b, in.c}) {
    if (view.dtype != DType::kF32 && view.dtype != DType::kBf16)
      return "b or c is neither f32 nor bf16";
  }
  if (in.a_log.dtype != DType::kF32 || in.d.dtype != DType::kF32 ||
      in.dt_bias.dtype != DType::kF32) {
    return "a_log, d or dt_bias is not f32";
  }
  return "";
}

std::string AcceptsSelectiveScanForward(const SelectiveScanForwardArgs& args) {
  for (const ConstMatrixView& view :
       {ConstMatrixView(args.checkpoints), args.initial_state, ConstMatrixView(args.final_state)}) {
    if (view && view.dtype != DType::kF32) return "checkpoints or a state is not f32";
  }
  return AcceptsSelectiveScanInputs(args.in);
}

absl::Status SelectiveScanForward(Execution& execution, const SelectiveScanForwardArgs& args) {
  HWY_DYNAMIC_DISPATCH(ForwardAny)(args, execution);
  return absl::OkStatus();
}

}  // namespace plait::cpu
#endif  // HWY_ONCE
