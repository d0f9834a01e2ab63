// The scan's backward apart from the recurrence: its scratch memory, and the passes over a tile
// that compute what a token and channel need once. Included once per target by Highway's
// foreach_target.
#if defined(PLAIT_KERNELS_CPU_SELECTIVE_SCAN_BACKWARD_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef PLAIT_KERNELS_CPU_SELECTIVE_SCAN_BACKWARD_INL_H_
#undef PLAIT_KERNELS_CPU_SELECTIVE_SCAN_BACKWARD_INL_H_
#else
#define PLAIT_KERNELS_CPU_SELECTIVE_SCAN_BACKWARD_INL_H_
#endif

#include "kernels/cpu/selective_scan-inl.h"

HWY_BEFORE_NAMESPACE();
namespace plait::cpu::HWY_NAMESPACE {

// db and dc are sums over channels. A group of channels writes its share of them for a chunk of
// time; the shares are then added in the order of the groups. Neither size depends on the threads.
inline constexpr int64_t kGroup = 2 * kLine;
inline constexpr int64_t kChunkTiles = 16;

// Partial sums of db or dc over channels, of one token and one block of states: [4-lane blocks of a
// vector, kStateBlock].
inline constexpr int64_t kPartialLanes = std::max(kLanes, kStateBlock);

// Scratch of one thread.
struct BackwardScratch {
  BackwardScratch(float* memory, int64_t padded) {
    const auto take = [&](int64_t size) {
      float* taken = memory;
      memory += size;
      return taken;
    };
    for (float** tile : {&delta, &slope, &dx, &dyy, &dz_factor, &u, &g_b, &ddelta}) {
      *tile = take(kTileLine);
    }
    decay = take(kTileStates), carried = take(kTileStates);
    a2 = take(padded * kGroup), h = take(padded * kLine);
    b = take(kTile * padded + kLine), c = take(kTile * padded + kLine);
    db = take(PartialSize(padded)), dc = take(PartialSize(padded));
  }
  static int64_t PartialSize(int64_t padded) {
    return kTile * padded / kStateBlock * kPartialLanes;
  }
  static int64_t Size(int64_t padded) {
    return 8 * kTileLine + 2 * kTileStates + padded * (kGroup + kLine) +
           2 * (kTile * padded + kLine) + 2 * PartialSize(padded);
  }

  // [vectors, tokens, lanes]: softplus and its slope; softplus x input; dy silu(z); dy silu'(z);
  // sum_n h C + D x; sum_n g B; sum_n g A log2(e) exp(delta A) h[t - 1].
  float *delta, *slope, *dx, *dyy, *dz_factor, *u, *g_b, *ddelta;
  // [tokens, kStateBlock, lanes] of one vector and block of states: exp(delta A), and that times
  // h[t - 1].
  float *decay, *carried;
  float* a2;       // [lines of the group, padded states, kLine]
  float* h;        // [padded states, kLine]: before the tile
  float *b, *c;    // [tokens, padded states]
  float *db, *dc;  // [tokens, blocks of states, kPartialLanes]: summed over the group's vectors
};

// Everything that is computed once per token and channel, before the recurrence. Returns by vector
// whether a decay of the tile needs clamping. L: Line or WholeLine. Views by value: stores through
// vectors may alias anything else.
template <class T, class L>
HWY_NOINLINE void LoadTile(const SelectiveScanBackwardArgs& args, const L line_in, const float* a2,
                           int64_t padded, int64_t begin, int64_t end,
                           const BackwardScratch& scratch_in, bool* clamped) {
  const F32Tag d;
  const L line = line_in;
  const BackwardScratch scratch = scratch_in;
  const SelectiveScanInputs& in = args.in;
  const ConstMatrixView dts = in.dt, xs = in.x, zs = in.z, dys = args.dy;
  const MatrixView dxs = args.dx, ddts = args.ddt, dzs = args.dz;
  bool whole[kVectors];
  F32 largest_step[kVectors], skip[kVectors], bias[kVectors];
  for (int64_t v = 0; v < line.vectors(); ++v) {
    largest_step[v] = LargestStep(a2, padded, v);
    skip[v] = line.Load(in.d.as<float>(), v);
    bias[v] = line.Load(in.dt_bias.as<float>(), v);
    whole[v] = true;
  }
  for (int64_t t = begin; t < end; ++t) {
    const int64_t ahead = std::max<int64_t>(t - kTile, 0);
    for (const ConstMatrixView* view : {&dts, &xs, &zs, &dys}) {
      line.Prefetch(view->row<T>(ahead));
    }
    for (const MatrixView* view : {&dxs, &ddts, &dzs}) line.Prefetch(view->row<T>(t));
    for (int64_t v = 0; v < line.vectors(); ++v) {
      const int64_t at = At(v, t - begin);
      const F32 dt = hn::Add(line.Load(dts.row<T>(t), v), bias[v]);
      hn::StoreU(ExpOfMinusAbs(d, dt), d, scratch.slope + at);
      hn::StoreU(ExpOfMinusAbs(d, line.Load(zs.row<T>(t), v)), d, scratch.dz_factor + at);
    }
  }
  for (int64_t t = begin; t < end; ++t) {
    for (int64_t v = 0; v < line.vectors(); ++v) {
      const int64_t at = At(v, t - begin);
      const F32 dt = hn::Add(line.Load(dts.row<T>(t), v), bias[v]);
      const F32 dt_exp = hn::LoadU(d, scratch.slope + at);
      const F32 delta = Softplus(d, dt, dt_exp);
      hn::StoreU(Logistic(d, dt, dt_exp), d, scratch.slope + at);
      const F32 x = line.Load(xs.row<T>(t), v), z = line.Load(zs.row<T>(t), v);
      const F32 dy = line.Load(dys.row<T>(t), v), one = hn::Set(d, 1.0f);
      const F32 gate = Logistic(d, z, hn::LoadU(d, scratch.dz_factor + at));
      whole[v] &= hn::AllTrue(d, hn::Le(delta, largest_step[v]));
      hn::StoreU(delta, d, scratch.delta + at);
      hn::StoreU(hn::Mul(delta, x), d, scratch.dx + at);
      hn::StoreU(hn::Mul(dy, hn::Mul(z, gate)), d, scratch.dyy + at);
      const F32 gate_slope = hn::Mul(gate, hn::MulAdd(z, hn::Sub(one, gate), one));
      hn::StoreU(hn::Mul(dy, gate_slope), d, scratch.dz_factor + at);
      hn::StoreU(hn::Mul(skip[v], x), d, scratch.u + at);
    }
  }
  for (int64_t v = 0; v < line.vectors(); ++v) clamped[v] = !whole[v];
}

// dx, ddt, dz of the tile; dd and ddt_bias [kLine] added to.
template <class T, class L>
HWY_NOINLINE void StoreTile(const SelectiveScanBackwardArgs& args, const L line_in, int64_t begin,
                            int64_t end, const BackwardScratch& scratch_in, float* dd,
                            float* ddt_bias) {
  const F32Tag d;
  const L line = line_in;
  const BackwardScratch scratch = scratch_in;
  const SelectiveScanInputs& in = args.in;
  const ConstMatrixView xs = in.x;
  const MatrixView dxs = args.dx, ddts = args.ddt, dzs = args.dz;
  F32 skip[kVectors], dd_sum[kVectors], bias_sum[kVectors];
  for (int64_t v = 0; v < line.vectors(); ++v) {
    skip[v] = line.Load(in.d.as<float>(), v);
    dd_sum[v] = bias_sum[v] = hn::Zero(d);
  }
  for (int64_t t = begin; t < end; ++t) {
    for (int64_t v = 0; v < line.vectors(); ++v) {
      const int64_t at = At(v, t - begin);
      const F32 x = line.Load(xs.row<T>(t), v), dyy = hn::LoadU(d, scratch.dyy + at);
      const F32 g_b = hn::LoadU(d, scratch.g_b + at);
      const F32 dz = hn::Mul(hn::LoadU(d, scratch.u + at), hn::LoadU(d, scratch.dz_factor + at));
      const F32 dx = hn::MulAdd(hn::LoadU(d, scratch.delta + at), g_b, hn::Mul(skip[v], dyy));
      const F32 through_decay = hn::Mul(hn::LoadU(d, scratch.ddelta + at), hn::Set(d, kLn2));
      const F32 ddt = hn::Mul(hn::MulAdd(g_b, x, through_decay), hn::LoadU(d, scratch.slope + at));
      line.Store(dz, dzs.row<T>(t), v);
      line.Store(dx, dxs.row<T>(t), v);
      line.Store(ddt, ddts.row<T>(t), v);
      dd_sum[v] = hn::MulAdd(dyy, x, dd_sum[v]);
      bias_sum[v] = hn::Add(ddt, bias_sum[v]);
    }
  }
  for (int64_t v = 0; v < line.vectors(); ++v) {
    hn::StoreU(hn::Add(dd_sum[v], hn::LoadU(d, dd + v * kLanes)), d, dd + v * kLanes);
    hn::StoreU(hn::Add(bias_sum[v], hn::LoadU(d, ddt_bias + v * kLanes)), d, ddt_bias + v * kLanes);
  }
}

// NOLINTNEXTLINE(google-readability-namespace-comments)
}  // namespace plait::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // per-target include guard
