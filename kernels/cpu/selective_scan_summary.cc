#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/selective_scan_summary.cc"
#include "hwy/foreach_target.h"
// foreach_target first: it includes this file once per target.
#include <omp.h>

#include "kernels/cpu/selective_scan-inl.h"
#include "kernels/cpu/selective_scan_summary.h"

HWY_BEFORE_NAMESPACE();
namespace plait::cpu::HWY_NAMESPACE {

// Scratch of one thread: what a line of channels needs over one tile of time.
struct SummaryScratch {
  SummaryScratch(float* memory, int64_t padded) {
    const auto take = [&](int64_t size) {
      float* taken = memory;
      memory += size;
      return taken;
    };
    delta = take(kTileLine), input = take(kTileLine), decay = take(kTileStates);
    a2 = take(padded * kLine), state = take(padded * kLine);
    rows = take(kTile * padded + kLine), delta_sum = take(kLine);
  }
  static int64_t Size(int64_t padded) {
    return 2 * kTileLine + kTileStates + 2 * padded * kLine + kTile * padded + 2 * kLine;
  }

  float* delta;      // [vectors, tokens, lanes]: softplus
  float* input;      // [vectors, tokens, lanes]: softplus x input; backward, dy silu(z)
  float* decay;      // [tokens, kStateBlock, lanes]
  float* a2;         // [padded states, kLine]
  float* state;      // [padded states, kLine]: h, or the gradient that reaches it
  float* rows;       // [tokens, padded states]: B, or C
  float* delta_sum;  // [kLine]
};

// softplus of tokens [begin, end), added to delta_sum. Returns by vector whether a decay of the
// tile needs clamping. L: Line or WholeLine. Views by value: stores through vectors may alias
// anything else.
template <class T, class L>
HWY_NOINLINE void LoadSteps(const ConstMatrixView dts, const ConstVectorView dt_bias,
                            const L line_in, int64_t padded, int64_t begin, int64_t end,
                            const SummaryScratch& scratch_in, bool* clamped) {
  const F32Tag d;
  const L line = line_in;
  const SummaryScratch scratch = scratch_in;
  F32 largest_step[kVectors], bias[kVectors], sum[kVectors];
  bool whole[kVectors];
  for (int64_t v = 0; v < line.vectors(); ++v) {
    largest_step[v] = LargestStep(scratch.a2, padded, v);
    bias[v] = line.Load(dt_bias.as<float>(), v);
    sum[v] = hn::Zero(d);
    whole[v] = true;
  }
  for (int64_t t = begin; t < end; ++t) {
    for (int64_t v = 0; v < line.vectors(); ++v) {
      const F32 dt = hn::Add(line.Load(dts.row<T>(t), v), bias[v]);
      hn::StoreU(ExpOfMinusAbs(d, dt), d, scratch.delta + At(v, t - begin));
    }
  }
  for (int64_t t = begin; t < end; ++t) {
    for (int64_t v = 0; v < line.vectors(); ++v) {
      float* at = scratch.delta + At(v, t - begin);
      const F32 delta =
          Softplus(d, hn::Add(line.Load(dts.row<T>(t), v), bias[v]), hn::LoadU(d, at));
      hn::StoreU(delta, d, at);
      whole[v] &= hn::AllTrue(d, hn::Le(delta, largest_step[v]));
      sum[v] = hn::Add(sum[v], delta);
    }
  }
  for (int64_t v = 0; v < line.vectors(); ++v) {
    float* total = scratch.delta_sum + v * kLanes;
    hn::StoreU(hn::Add(hn::LoadU(d, total), sum[v]), d, total);
    clamped[v] = !whole[v];
  }
}

// input of tokens [begin, end): softplus x input, after LoadSteps.
template <class T, class L>
HWY_NOINLINE void LoadInput(const SelectiveScanSummaryForwardArgs& args, const L line_in,
                            int64_t begin, int64_t end, const SummaryScratch& scratch_in) {
  const F32Tag d;
  const L line = line_in;
  const SummaryScratch scratch = scratch_in;
  const ConstMatrixView xs = args.x, dts = args.dt;
  for (int64_t t = begin; t < end; ++t) {
    const int64_t ahead = std::min(t + kTile, xs.rows - 1);
    line.Prefetch(xs.row<T>(ahead));
    line.Prefetch(dts.row<T>(ahead));
    for (int64_t v = 0; v < line.vectors(); ++v) {
      const int64_t at = At(v, t - begin);
      const F32 delta = hn::LoadU(d, scratch.delta + at);
      hn::StoreU(hn::Mul(delta, line.Load(xs.row<T>(t), v)), d, scratch.input + at);
    }
  }
}

// The same backwards: dy silu(z).
template <class T, class L>
HWY_NOINLINE void LoadInput(const SelectiveScanSummaryBackwardArgs& args, const L line_in,
                            int64_t begin, int64_t end, const SummaryScratch& scratch_in) {
  const F32Tag d;
  const L line = line_in;
  const SummaryScratch scratch = scratch_in;
  const ConstMatrixView zs = args.z, dys = args.dy, dts = args.dt;
  for (int64_t t = begin; t < end; ++t) {
    const int64_t ahead = std::max<int64_t>(t - kTile, 0);
    for (const ConstMatrixView* view : {&zs, &dys, &dts}) line.Prefetch(view->row<T>(ahead));
    for (int64_t v = 0; v < line.vectors(); ++v) {
      const F32 z = line.Load(zs.row<T>(t), v);
      const F32 gated = hn::Mul(z, Logistic(d, z));
      hn::StoreU(hn::Mul(line.Load(dys.row<T>(t), v), gated), d, scratch.input + At(v, t - begin));
    }
  }
}

template <class T, class Args>
void LoadTile(const Args& args, const Line& line, int64_t padded, int64_t begin, int64_t end,
              const SummaryScratch& scratch, bool* clamped) {
  if (line.count == kLine) {
    LoadSteps<T>(args.dt, args.dt_bias, WholeLine(line), padded, begin, end, scratch, clamped);
    LoadInput<T>(args, WholeLine(line), begin, end, scratch);
  } else {
    LoadSteps<T>(args.dt, args.dt_bias, line, padded, begin, end, scratch, clamped);
    LoadInput<T>(args, line, begin, end, scratch);
  }
}

enum class Direction { kForward, kBackward };

// The tile's tokens, states [n, n + kStateBlock) of one vector of channels. Forward: h = decay h +
// input B. Backward, from the last token: g = decay (g + input C).
template <Direction kDirection>
HWY_NOINLINE void Recur(const SummaryScratch& scratch, int64_t padded, int64_t vector, int64_t n,
                        int64_t tokens) {
  const F32Tag d;
  constexpr int kStates = kStateBlock;
  F32 state[kStates];
  for (int s = 0; s < kStates; ++s) {
    state[s] = hn::LoadU(d, scratch.state + (n + s) * kLine + vector * kLanes);
  }
  for (int64_t i = 0; i < tokens; ++i) {
    const int64_t t = kDirection == Direction::kForward ? i : tokens - 1 - i;
    const F32 input = hn::LoadU(d, scratch.input + At(vector, t));
    const float* row = scratch.rows + t * padded + n;
    for (int s = 0; s < kStates; ++s) {
      const F32 decay = hn::LoadU(d, scratch.decay + (t * kStates + s) * kLanes);
      const F32 factor = hn::Set(d, row[s]);
      if constexpr (kDirection == Direction::kForward) {
        state[s] = hn::MulAdd(input, factor, hn::Mul(decay, state[s]));
      } else {
        state[s] = hn::Mul(decay, hn::MulAdd(input, factor, state[s]));
      }
    }
  }
  for (int s = 0; s < kStates; ++s) {
    hn::StoreU(state[s], d, scratch.state + (n + s) * kLine + vector * kLanes);
  }
}

// One line of channels. rows: B or C. state: [states, channels].
template <class T, Direction kDirection, class Args>
void SummarizeLine(const Args& args, const ConstMatrixView& rows, const Line& line,
                   const SummaryScratch& scratch, const MatrixView& state) {
  const int64_t tokens = args.dt.rows, states = rows.columns, padded = PaddedStates(states);
  const int64_t tiles = NumSelectiveScanCheckpoints(tokens);
  LoadDecayRates(args.a_log, line, scratch.a2);
  std::fill(scratch.state, scratch.state + padded * kLine, 0.0f);
  std::fill(scratch.delta_sum, scratch.delta_sum + kLine, 0.0f);
  for (int64_t i = 0; i < tiles; ++i) {
    const int64_t tile = kDirection == Direction::kForward ? i : tiles - 1 - i;
    const int64_t begin = tile * kTile, end = std::min(begin + kTile, tokens);
    LoadStateRows(rows, begin, end, scratch.rows);
    bool clamped[kVectors];
    LoadTile<T>(args, line, padded, begin, end, scratch, clamped);
    for (int64_t v = 0; v < line.vectors(); ++v) {
      const auto decays = clamped[v] ? Decays<true> : Decays<false>;
      for (int64_t n = 0; n < padded; n += kStateBlock) {
        decays(scratch.a2, scratch.delta + At(v, 0), v, n, 0, end - begin, scratch.decay);
        Recur<kDirection>(scratch, padded, v, n, end - begin);
      }
    }
  }
  for (int64_t n = 0; n < states; ++n) {
    for (int64_t v = 0; v < line.vectors(); ++v) {
      const F32 value = hn::LoadU(F32Tag(), scratch.state + n * kLine + v * kLanes);
      line.Store(value, state.row<float>(n), v);
    }
  }
  for (int64_t v = 0; v < line.vectors(); ++v) {
    const F32 sum = hn::LoadU(F32Tag(), scratch.delta_sum + v * kLanes);
    line.Store(sum, args.delta_sum.template as<float>(), v);
  }
}

// function(line, scratch) for every line of channels.
template <class Function>
void ForEachLine(Execution& execution, int64_t channels, int64_t states, const Function& function) {
  const int64_t lines = (channels + kLine - 1) / kLine;
  const int64_t padded = PaddedStates(states), size = SummaryScratch::Size(padded);
  const int num_threads = static_cast<int>(std::clamp<int64_t>(lines, 1, execution.num_threads()));
  Tensor memory = execution.Empty(DType::kF32, {num_threads * size});
  float* scratch = memory.data<float>();
#pragma omp parallel for num_threads(num_threads) schedule(static)
  for (int64_t i = 0; i < lines; ++i) {
    function(Line{i * kLine, std::min(kLine, channels - i * kLine)},
             SummaryScratch(scratch + omp_get_thread_num() * size, padded));
  }
}

void ForwardAny(const SelectiveScanSummaryForwardArgs& args, Execution& execution) {
  ForEachLine(execution, args.x.columns, args.b.columns,
              [&](const Line& line, const SummaryScratch& scratch) {
                WithElementType(args.x.dtype, [&]<class T>(T) {
                  SummarizeLine<T, Direction::kForward>(args, args.b, line, scratch,
                                                        args.final_state);
                });
              });
}

void BackwardAny(const SelectiveScanSummaryBackwardArgs& args, Execution& execution) {
  ForEachLine(execution, args.dt.columns, args.c.columns,
              [&](const Line& line, const SummaryScratch& scratch) {
                WithElementType(args.dt.dtype, [&]<class T>(T) {
                  SummarizeLine<T, Direction::kBackward>(args, args.c, line, scratch,
                                                         args.dinitial_state);
                });
              });
}

void Carry(const SelectiveScanCarryArgs& args, Execution& execution) {
  const F32Tag d;
  const int64_t states = args.a_log.columns;
  ForEachLine(execution, args.a_log.rows, states,
              [&](const Line& line, const SummaryScratch& scratch) {
                LoadDecayRates(args.a_log, line, scratch.a2);
                for (int64_t n = 0; n < states; ++n) {
                  for (int64_t v = 0; v < line.vectors(); ++v) {
                    const F32 a2 = hn::LoadU(d, scratch.a2 + n * kLine + v * kLanes);
                    const F32 exponent = hn::Mul(a2, line.Load(args.delta_sum.as<float>(), v));
                    const F32 decay = Exp2(d, hn::Max(exponent, hn::Set(d, -kExp2Limit)));
                    const F32 state = line.Load(args.state.row<float>(n), v);
                    const F32 local = line.Load(args.local.row<float>(n), v);
                    line.Store(hn::MulAdd(decay, state, local), args.state.row<float>(n), v);
                  }
                }
              });
}

// NOLINTNEXTLINE(google-readability-namespace-comments)
}  // namespace plait::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace plait::cpu {
namespace {

HWY_EXPORT(ForwardAny);
HWY_EXPORT(BackwardAny);
HWY_EXPORT(Carry);

bool IsF32OrBf16(DType dtype) { return dtype == DType::kF32 || dtype == DType::kBf16; }

}  // namespace

std::string AcceptsSelectiveScanSummaryForward(const SelectiveScanSummaryForwardArgs& args) {
  if (!IsF32OrBf16(args.x.dtype) || !IsF32OrBf16(args.b.dtype)) return "f64";
  if (args.dt.dtype != args.x.dtype) return "dt is not of the dtype of x";
  if (args.a_log.dtype != DType::kF32 || args.dt_bias.dtype != DType::kF32) {
    return "a_log or dt_bias is not f32";
  }
  if (args.final_state.dtype != DType::kF32 || args.delta_sum.dtype != DType::kF32) {
    return "final_state or delta_sum is not f32";
  }
  return "";
}

absl::Status SelectiveScanSummaryForward(Execution& execution,
                                         const SelectiveScanSummaryForwardArgs& args) {
  HWY_DYNAMIC_DISPATCH(ForwardAny)(args, execution);
  return absl::OkStatus();
}

std::string AcceptsSelectiveScanSummaryBackward(const SelectiveScanSummaryBackwardArgs& args) {
  if (!IsF32OrBf16(args.dt.dtype) || !IsF32OrBf16(args.c.dtype)) return "f64";
  if (args.z.dtype != args.dt.dtype || args.dy.dtype != args.dt.dtype) {
    return "z or dy is not of the dtype of dt";
  }
  if (args.a_log.dtype != DType::kF32 || args.dt_bias.dtype != DType::kF32) {
    return "a_log or dt_bias is not f32";
  }
  if (args.dinitial_state.dtype != DType::kF32 || args.delta_sum.dtype != DType::kF32) {
    return "dinitial_state or delta_sum is not f32";
  }
  return "";
}

absl::Status SelectiveScanSummaryBackward(Execution& execution,
                                          const SelectiveScanSummaryBackwardArgs& args) {
  HWY_DYNAMIC_DISPATCH(BackwardAny)(args, execution);
  return absl::OkStatus();
}

std::string AcceptsSelectiveScanCarry(const SelectiveScanCarryArgs& args) {
  for (const ConstMatrixView& view : {args.a_log, args.local, ConstMatrixView(args.state)}) {
    if (view.dtype != DType::kF32) return "a_log or a state is not f32";
  }
  return args.delta_sum.dtype == DType::kF32 ? "" : "delta_sum is not f32";
}

absl::Status SelectiveScanCarry(Execution& execution, const SelectiveScanCarryArgs& args) {
  HWY_DYNAMIC_DISPATCH(Carry)(args, execution);
  return absl::OkStatus();
}

}  // namespace plait::cpu
#endif  // HWY_ONCE
