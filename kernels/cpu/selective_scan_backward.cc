#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/selective_scan_backward.cc"
#include "hwy/foreach_target.h"
// foreach_target first: it includes this file once per target.
#include <omp.h>

#include "kernels/cpu/selective_scan.h"
#include "kernels/cpu/selective_scan_backward-inl.h"

HWY_BEFORE_NAMESPACE();
namespace plait::cpu::HWY_NAMESPACE {

// sums += the lane sums of four states' vectors, folded to one vector.
HWY_INLINE void AddLaneSums(F32Tag d, F32 s0, F32 s1, F32 s2, F32 s3, float* sums) {
#if HWY_TARGET == HWY_SCALAR
  sums[0] += hn::GetLane(s0);
  sums[1] += hn::GetLane(s1);
  sums[2] += hn::GetLane(s2);
  sums[3] += hn::GetLane(s3);
  (void)d;
#else
  // Per block of four lanes: [s0, s1, s0, s1] and [s2, s3, s2, s3], each the sum of two lanes.
  const auto s01 = hn::Add(hn::InterleaveLower(d, s0, s1), hn::InterleaveUpper(d, s0, s1));
  const auto s23 = hn::Add(hn::InterleaveLower(d, s2, s3), hn::InterleaveUpper(d, s2, s3));
  const hn::Repartition<double, F32Tag> d64;
  const auto a = hn::BitCast(d64, s01), b = hn::BitCast(d64, s23);
  const auto folded = hn::Add(hn::BitCast(d, hn::InterleaveLower(d64, a, b)),
                              hn::BitCast(d, hn::InterleaveUpper(d64, a, b)));
  hn::StoreU(hn::Add(hn::LoadU(d, sums), folded), d, sums);
#endif
}

// What outlives a tile, over every channel.
struct BackwardState {
  int64_t padded;
  float* g;              // [lines, padded states, kLine]: exp(delta A) g of the next token
  float* da;             // [lines, padded states, kLine]: sum_t g delta exp(delta A) h[t - 1]
  float *dd, *ddt_bias;  // [lines, kLine]
  float* partial;        // [groups, tokens of a chunk, 2 (db, dc), padded states]
};

// One vector of a document's states (or of their gradients) [n, n + kStateBlock) to `block`
// [kStateBlock, lanes]; zero in the padding and where they are absent. Not inlined, as the next:
// the loops over time need the registers.
HWY_NOINLINE void LoadStates(const ConstMatrixView& from, int64_t document, int64_t states,
                             int64_t n, const Line& line, int64_t vector, float* block) {
  const F32Tag d;
  for (int64_t s = 0; s < kStateBlock; ++s) {
    const bool there = from && n + s < states;
    hn::StoreU(there ? line.Load(from.row<float>(document * states + n + s), vector) : hn::Zero(d),
               d, block + s * kLanes);
  }
}
HWY_NOINLINE void StoreStates(const float* block, int64_t document, int64_t states, int64_t n,
                              const Line& line, int64_t vector, const MatrixView& to) {
  for (int64_t s = 0; s < kStateBlock && n + s < states; ++s) {
    line.Store(hn::LoadU(F32Tag(), block + s * kLanes), to.row<float>(document * states + n + s),
               vector);
  }
}

// h through the tile once more, forwards, for states [n, n + kStateBlock) of one vector: keeps what
// the way back reads, adds to u and dc.
HWY_NOINLINE void Redo(const SelectiveScanBackwardArgs& args, const Line& line,
                       const BackwardScratch& scratch, const ScanSegment* first,
                       const ScanSegment* last, int64_t tile_begin, int64_t padded, int64_t vector,
                       int64_t n) {
  const F32Tag d;
  constexpr int kStates = kStateBlock;
  F32 h[kStates];
  for (int s = 0; s < kStates; ++s) {
    h[s] = hn::LoadU(d, scratch.h + (n + s) * kLine + vector * kLanes);
  }
  for (const ScanSegment* segment = first; segment != last; ++segment) {
    if (segment->starts) {
      HWY_ALIGN float block[kStates * kLanes];
      LoadStates(args.initial_state, segment->document, args.in.b.columns, n, line, vector, block);
      for (int s = 0; s < kStates; ++s) h[s] = hn::LoadU(d, block + s * kLanes);
    }
    for (int64_t t = segment->begin - tile_begin; t < segment->end - tile_begin; ++t) {
      const F32 dx = hn::LoadU(d, scratch.dx + At(vector, t));
      const F32 dyy = hn::LoadU(d, scratch.dyy + At(vector, t));
      F32 u = hn::LoadU(d, scratch.u + At(vector, t));
      const float* b = scratch.b + t * padded + n;
      const float* c = scratch.c + t * padded + n;
      F32 dc[kStates];
      for (int s = 0; s < kStates; ++s) {
        const F32 decay = hn::LoadU(d, scratch.decay + (t * kStates + s) * kLanes);
        const F32 carried = hn::Mul(decay, h[s]);
        hn::StoreU(carried, d, scratch.carried + (t * kStates + s) * kLanes);
        h[s] = hn::MulAdd(dx, hn::Set(d, b[s]), carried);
        u = hn::MulAdd(h[s], hn::Set(d, c[s]), u);
        dc[s] = hn::Mul(dyy, h[s]);
      }
      hn::StoreU(u, d, scratch.u + At(vector, t));
      AddLaneSums(d, dc[0], dc[1], dc[2], dc[3],
                  scratch.dc + (t * padded + n) / kStateBlock * kPartialLanes);
    }
  }
}

// The way back through the tile. g: what reaches the tile's last token; left as what reaches the
// token before the tile. da: added to.
HWY_NOINLINE void Reverse(const SelectiveScanBackwardArgs& args, const Line& line,
                          const BackwardScratch& scratch, const float* a2_line,
                          const ScanSegment* first, const ScanSegment* last, int64_t tile_begin,
                          int64_t padded, int64_t vector, int64_t n, float* g_line,
                          float* da_line) {
  const F32Tag d;
  constexpr int kStates = kStateBlock;
  F32 a2[kStates], next[kStates], da[kStates];
  for (int s = 0; s < kStates; ++s) {
    const int64_t at = (n + s) * kLine + vector * kLanes;
    a2[s] = hn::LoadU(d, a2_line + at);
    next[s] = hn::LoadU(d, g_line + at);
    da[s] = hn::Zero(d);
  }
  for (const ScanSegment* segment = last; segment-- != first;) {
    HWY_ALIGN float block[kStates * kLanes];
    if (segment->ends) {
      LoadStates(args.dfinal_state, segment->document, args.in.b.columns, n, line, vector, block);
      for (int s = 0; s < kStates; ++s) next[s] = hn::LoadU(d, block + s * kLanes);
    }
    for (int64_t t = segment->end - tile_begin - 1; t >= segment->begin - tile_begin; --t) {
      const F32 delta = hn::LoadU(d, scratch.delta + At(vector, t));
      const F32 dx = hn::LoadU(d, scratch.dx + At(vector, t));
      const F32 dyy = hn::LoadU(d, scratch.dyy + At(vector, t));
      F32 g_b = n == 0 ? hn::Zero(d) : hn::LoadU(d, scratch.g_b + At(vector, t));
      F32 ddelta = n == 0 ? hn::Zero(d) : hn::LoadU(d, scratch.ddelta + At(vector, t));
      const float* b = scratch.b + t * padded + n;
      const float* c = scratch.c + t * padded + n;
      F32 db[kStates];
      for (int s = 0; s < kStates; ++s) {
        const F32 g = hn::MulAdd(dyy, hn::Set(d, c[s]), next[s]);
        const F32 through_decay =
            hn::Mul(g, hn::LoadU(d, scratch.carried + (t * kStates + s) * kLanes));
        ddelta = hn::MulAdd(through_decay, a2[s], ddelta);
        da[s] = hn::MulAdd(through_decay, delta, da[s]);
        g_b = hn::MulAdd(g, hn::Set(d, b[s]), g_b);
        db[s] = hn::Mul(g, dx);
        next[s] = hn::Mul(g, hn::LoadU(d, scratch.decay + (t * kStates + s) * kLanes));
      }
      hn::StoreU(g_b, d, scratch.g_b + At(vector, t));
      hn::StoreU(ddelta, d, scratch.ddelta + At(vector, t));
      AddLaneSums(d, db[0], db[1], db[2], db[3],
                  scratch.db + (t * padded + n) / kStateBlock * kPartialLanes);
    }
    if (!segment->starts || !args.dinitial_state) continue;
    for (int s = 0; s < kStates; ++s) hn::StoreU(next[s], d, block + s * kLanes);
    StoreStates(block, segment->document, args.in.b.columns, n, line, vector, args.dinitial_state);
  }
  for (int s = 0; s < kStates; ++s) {
    const int64_t at = (n + s) * kLine + vector * kLanes;
    hn::StoreU(next[s], d, g_line + at);
    hn::StoreU(hn::Add(da[s], hn::LoadU(d, da_line + at)), d, da_line + at);
  }
}

// One tile of a group's channels; its share of db and dc to `partial` [tokens, 2, padded states].
template <class T>
void BackwardTile(const SelectiveScanBackwardArgs& args, const ScanSegments& segments,
                  const BackwardState& state, int64_t group, int64_t tile,
                  const BackwardScratch& scratch, float* partial) {
  const int64_t channels = args.in.x.columns, states = args.in.b.columns, padded = state.padded;
  const int64_t begin = tile * kTile, end = std::min(begin + kTile, args.in.x.rows);
  LoadStateRows(args.in.b, begin, end, scratch.b);
  LoadStateRows(args.in.c, begin, end, scratch.c);
  std::fill(scratch.db, scratch.db + BackwardScratch::PartialSize(padded), 0.0f);
  std::fill(scratch.dc, scratch.dc + BackwardScratch::PartialSize(padded), 0.0f);
  const ScanSegment *first = segments.begin(tile), *last = segments.end(tile);
  for (int64_t channel = group * kGroup; channel < std::min(channels, (group + 1) * kGroup);
       channel += kLine) {
    const Line line{channel, std::min(kLine, channels - channel)};
    const int64_t index = channel / kLine;
    const float* a2 = scratch.a2 + (channel - group * kGroup) * padded;
    bool clamped[kVectors];
    if (line.count == kLine) {
      LoadTile<T>(args, WholeLine(line), a2, padded, begin, end, scratch, clamped);
    } else {
      LoadTile<T>(args, line, a2, padded, begin, end, scratch, clamped);
    }
    std::fill(scratch.h, scratch.h + padded * kLine, 0.0f);
    for (int64_t n = 0; n < states && tile > 0; ++n) {
      const float* row = args.checkpoints.row<float>((tile - 1) * states + n);
      for (int64_t v = 0; v < line.vectors(); ++v) {
        hn::StoreU(line.Load(row, v), F32Tag(), scratch.h + n * kLine + v * kLanes);
      }
    }
    for (int64_t v = 0; v < line.vectors(); ++v) {
      for (int64_t n = 0; n < padded; n += kStateBlock) {
        const auto decays = clamped[v] ? Decays<true> : Decays<false>;
        decays(a2, scratch.delta + At(v, 0), v, n, 0, end - begin, scratch.decay);
        Redo(args, line, scratch, first, last, begin, padded, v, n);
        Reverse(args, line, scratch, a2, first, last, begin, padded, v, n,
                state.g + index * padded * kLine, state.da + index * padded * kLine);
      }
    }
    if (line.count == kLine) {
      StoreTile<T>(args, WholeLine(line), begin, end, scratch, state.dd + index * kLine,
                   state.ddt_bias + index * kLine);
    } else {
      StoreTile<T>(args, line, begin, end, scratch, state.dd + index * kLine,
                   state.ddt_bias + index * kLine);
    }
  }
  for (int64_t t = 0; t < end - begin; ++t) {
    for (int64_t n = 0; n < padded; ++n) {
      const int64_t at = (t * padded + n) / kStateBlock * kPartialLanes + n % kStateBlock;
      float db = 0, dc = 0;
      for (int64_t block = 0; block < kPartialLanes; block += kStateBlock) {
        db += scratch.db[at + block];
        dc += scratch.dc[at + block];
      }
      partial[t * 2 * padded + n] = db;
      partial[t * 2 * padded + padded + n] = dc;
    }
  }
}

// db and dc of token t: the groups' shares in their order.
void AddShares(const SelectiveScanBackwardArgs& args, const BackwardState& state, int64_t groups,
               int64_t chunk_begin, int64_t t) {
  const int64_t padded = state.padded, width = 2 * padded;
  float* sum = state.partial + (t - chunk_begin) * width;
  for (int64_t group = 1; group < groups; ++group) {
    const float* share = sum + group * kChunkTiles * kTile * width;
    for (int64_t i = 0; i < width; ++i) sum[i] += share[i];
  }
  const auto store = [&](const MatrixView& to, const float* from) {
    for (int64_t n = 0; n < to.columns; ++n) {
      if (to.dtype == DType::kF32) {
        to.row<float>(t)[n] = from[n];
      } else {
        to.row<BFloat16>(t)[n] = BFloat16(from[n]);
      }
    }
  };
  store(args.db, sum);
  store(args.dc, sum + padded);
}

void AddParameterGradients(const SelectiveScanBackwardArgs& args, const BackwardState& state,
                           const Line& line, float* a2) {
  const int64_t index = line.channel / kLine;
  LoadDecayRates(args.in.a_log, line, a2);
  for (int64_t i = 0; i < line.count; ++i) {
    for (int64_t n = 0; n < args.da_log.columns; ++n) {
      args.da_log.row<float>(line.channel + i)[n] +=
          kLn2 * a2[n * kLine + i] * state.da[(index * state.padded + n) * kLine + i];
    }
    args.dd.as<float>()[line.channel + i] += state.dd[index * kLine + i];
    args.ddt_bias.as<float>()[line.channel + i] += state.ddt_bias[index * kLine + i];
  }
}

template <class T>
void Backward(const SelectiveScanBackwardArgs& args, Execution& execution) {
  const int64_t tokens = args.in.x.rows, channels = args.in.x.columns;
  const int64_t padded = PaddedStates(args.in.b.columns);
  const int64_t lines = (channels + kLine - 1) / kLine, groups = (channels + kGroup - 1) / kGroup;
  const ScanSegments segments(args.in.documents, args.in.document_offsets);
  const int64_t tiles = segments.num_tiles();
  const int num_threads = static_cast<int>(std::clamp<int64_t>(groups, 1, execution.num_threads()));
  const int64_t size = BackwardScratch::Size(padded);
  Tensor sums = execution.Zeros(DType::kF32, {lines * kLine * (2 * padded + 2)});
  Tensor memory = execution.Empty(DType::kF32, {num_threads * size});
  const int64_t share = kChunkTiles * kTile * 2 * padded;
  Tensor partial = execution.Empty(DType::kF32, {groups * share});
  float* scratch = memory.data<float>();
  BackwardState state{.padded = padded, .g = sums.data<float>(), .partial = partial.data<float>()};
  state.da = state.g + lines * kLine * padded;
  state.dd = state.da + lines * kLine * padded;
  state.ddt_bias = state.dd + lines * kLine;

#pragma omp parallel num_threads(num_threads)
  {
    const BackwardScratch own(scratch + omp_get_thread_num() * size, padded);
    const int64_t last_chunk = (tiles + kChunkTiles - 1) / kChunkTiles - 1;
    for (int64_t chunk = last_chunk; chunk >= 0; --chunk) {
      const int64_t first_tile = chunk * kChunkTiles;
      const int64_t end_tile = std::min(first_tile + kChunkTiles, tiles);
#pragma omp for schedule(static)
      for (int64_t group = 0; group < groups; ++group) {
        for (int64_t i = 0; i < kGroup / kLine && group * kGroup + i * kLine < channels; ++i) {
          const int64_t channel = group * kGroup + i * kLine;
          LoadDecayRates(args.in.a_log, {channel, std::min(kLine, channels - channel)},
                         own.a2 + i * kLine * padded);
        }
        for (int64_t tile = end_tile - 1; tile >= first_tile; --tile) {
          BackwardTile<T>(args, segments, state, group, tile, own,
                          state.partial + group * share + (tile - first_tile) * kTile * 2 * padded);
        }
      }
#pragma omp for schedule(static)
      for (int64_t t = first_tile * kTile; t < std::min(end_tile * kTile, tokens); ++t) {
        AddShares(args, state, groups, first_tile * kTile, t);
      }
    }
#pragma omp for schedule(static)
    for (int64_t i = 0; i < lines; ++i) {
      AddParameterGradients(args, state, {i * kLine, std::min(kLine, channels - i * kLine)},
                            own.a2);
    }
  }
}

void BackwardAny(const SelectiveScanBackwardArgs& args, Execution& execution) {
  if (args.in.x.dtype == DType::kF32) return Backward<float>(args, execution);
  Backward<BFloat16>(args, execution);
}

// NOLINTNEXTLINE(google-readability-namespace-comments)
}  // namespace plait::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace plait::cpu {
namespace {

HWY_EXPORT(BackwardAny);

}  // namespace

std::string AcceptsSelectiveScanBackward(const SelectiveScanBackwardArgs& args) {
  if (args.checkpoints.dtype != DType::kF32) return "checkpoints are not f32";
  for (const ConstMatrixView& view :
       {args.initial_state, args.dfinal_state, ConstMatrixView(args.dinitial_state)}) {
    if (view && view.dtype != DType::kF32) return "a state or its gradient is not f32";
  }
  if (args.da_log.dtype != DType::kF32 || args.dd.dtype != DType::kF32 ||
      args.ddt_bias.dtype != DType::kF32) {
    return "a parameter's gradient is not f32";
  }
  for (const MatrixView& view : {args.db, args.dc}) {
    if (view.dtype != DType::kF32 && view.dtype != DType::kBf16)
      return "db or dc is neither f32 nor bf16";
  }
  return AcceptsSelectiveScanInputs(args.in);
}

absl::Status SelectiveScanBackward(Execution& execution, const SelectiveScanBackwardArgs& args) {
  HWY_DYNAMIC_DISPATCH(BackwardAny)(args, execution);
  return absl::OkStatus();
}

}  // namespace plait::cpu
#endif  // HWY_ONCE
