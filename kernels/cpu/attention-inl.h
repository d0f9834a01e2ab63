// Tiles of attention, shared by forward and backward: packing, the micro-kernel, and its three
// uses. Everything inside is f32. A tile is up to kQueryBlock queries by kKeyBlock keys; packed
// operands come in panels of 2 x lanes columns, each panel [rows, 2 x lanes]. Rows of accumulators
// and tiles are padded to kTileRows: what lands in the padding is never read.
#if defined(PLAIT_KERNELS_CPU_ATTENTION_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef PLAIT_KERNELS_CPU_ATTENTION_INL_H_
#undef PLAIT_KERNELS_CPU_ATTENTION_INL_H_
#else
#define PLAIT_KERNELS_CPU_ATTENTION_INL_H_
#endif

#include <algorithm>
#include <cstring>

#include "kernels/cpu/attention_plan.h"
#include "kernels/cpu/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace plait::cpu::HWY_NAMESPACE {

// Accumulators of the micro-kernel: kTileRows x 2 vectors, of 16 registers (32 with AVX-512).
constexpr int64_t kTileRows = HWY_TARGET == HWY_AVX3 ? 12 : 6;
static_assert(kQueryBlock % kTileRows == 0 && kKeyBlock % kTileRows == 0);
static_assert(kKeyBlock % (2 * hn::MaxLanes(F32Tag())) == 0);

inline int64_t NumLanes() { return static_cast<int64_t>(hn::Lanes(F32Tag())); }

// exp(x) for x that is at most rounding above 0, and 0 below -86; NaN stays NaN. As Exp, but
// without what only large arguments need: rounding to integer by adding 1.5 x 2^23, whose low bits
// then hold the exponent.
inline F32 ExpOfNonPositive(F32Tag d, F32 x) {
  const hn::RebindToSigned<F32Tag> di;
  const auto magic = hn::Set(d, 12582912.0f);
  const auto shifted = hn::MulAdd(x, hn::Set(d, 1.44269504088896341f), magic);
  const auto n = hn::Sub(shifted, magic);
  auto r = hn::NegMulAdd(n, hn::Set(d, 0.693359375f), x);
  r = hn::NegMulAdd(n, hn::Set(d, -2.12194440e-4f), r);
  auto p = hn::Set(d, 1.3981999507e-3f);
  p = hn::MulAdd(p, r, hn::Set(d, 8.3334519073e-3f));
  p = hn::MulAdd(p, r, hn::Set(d, 4.1665795894e-2f));
  p = hn::MulAdd(p, r, hn::Set(d, 1.6666665459e-1f));
  p = hn::MulAdd(p, r, hn::Set(d, 5.0000001201e-1f));
  p = hn::MulAdd(p, hn::Mul(r, r), hn::Add(r, hn::Set(d, 1.0f)));
  const auto exponent = hn::ShiftLeft<23>(hn::BitCast(di, shifted));
  const auto y = hn::BitCast(d, hn::Add(hn::BitCast(di, p), exponent));
  return hn::IfThenZeroElse(hn::Lt(x, hn::Set(d, -86.0f)), y);
}

// c[r, n] (+)= sum_k a[r, k] b[k, n] for kTileRows rows and kVectors vectors of columns, k in
// order. a[r, k] is a[r * a_stride + k], or a[k * a_stride + r] where kTransposed.
template <int kVectors, bool kTransposed, bool kAccumulate>
HWY_INLINE void MultiplyTile(const float* HWY_RESTRICT a, int64_t a_stride,
                             const float* HWY_RESTRICT b, int64_t b_stride, int64_t depth,
                             float* HWY_RESTRICT c, int64_t c_stride) {
  const F32Tag d;
  const int64_t lanes = NumLanes();
  F32 sums[kTileRows][kVectors];
#pragma GCC unroll 16
  for (int64_t r = 0; r < kTileRows; ++r) {
#pragma GCC unroll 2
    for (int n = 0; n < kVectors; ++n)
      sums[r][n] = kAccumulate ? hn::LoadU(d, c + r * c_stride + n * lanes) : hn::Zero(d);
  }
  for (int64_t k = 0; k < depth; ++k) {
    const auto b0 = hn::LoadU(d, b + k * b_stride);
    const auto b1 = kVectors == 2 ? hn::LoadU(d, b + k * b_stride + lanes) : b0;
#pragma GCC unroll 16
    for (int64_t r = 0; r < kTileRows; ++r) {
      const auto value = hn::Set(d, kTransposed ? a[k * a_stride + r] : a[r * a_stride + k]);
      sums[r][0] = hn::MulAdd(value, b0, sums[r][0]);
      if (kVectors == 2) sums[r][kVectors - 1] = hn::MulAdd(value, b1, sums[r][kVectors - 1]);
    }
  }
#pragma GCC unroll 16
  for (int64_t r = 0; r < kTileRows; ++r) {
#pragma GCC unroll 2
    for (int n = 0; n < kVectors; ++n) hn::StoreU(sums[r][n], d, c + r * c_stride + n * lanes);
  }
}

// Which scores of a tile exist: row r sees the columns before Visible(r).
struct Tile {
  Tile(const AttentionPlan& plan, int64_t s, int64_t query_begin, int64_t key_begin)
      : rows(std::min(kQueryBlock, plan.Queries(s) - query_begin)),
        columns(std::min(kKeyBlock, plan.Keys(s) - key_begin)),
        diagonal(plan.VisibleKeys(s, query_begin + 1) - key_begin) {}

  int64_t Visible(int64_t r) const {
    return std::clamp<int64_t>(diagonal + std::min(r, rows - 1), 0, columns);
  }
  // The first row that sees `column`.
  int64_t FirstRow(int64_t column) const {
    return std::clamp<int64_t>(column + 1 - diagonal, 0, rows);
  }
  // Columns that the micro-kernel fills for the kTileRows rows from r: whole panels.
  int64_t Filled(int64_t r, int64_t panel) const {
    return RoundUp(Visible(r + kTileRows - 1), panel);
  }

  int64_t rows, columns, diagonal;
};

// A matrix as the micro-kernel's right operand: panel p, row k at data + p * panel_stride + k *
// row_stride.
struct Panels {
  const float* data;
  int64_t panel_stride, row_stride;
};

// scores[r, c] = sum_d rows[r, d] keys[c, d]: keys transposed into panels [head_dim, panel], one
// after another. Row stride of scores: kKeyBlock. Panels above the diagonal are left as they are.
inline void MultiplyByKeys(const Tile& tile, const float* rows, int64_t row_stride,
                           const float* transposed, int64_t head_dim, float* scores) {
  const int64_t panel = 2 * NumLanes();
  for (int64_t c = 0; c < tile.Filled(tile.rows - 1, panel); c += panel) {
    const int64_t first = tile.FirstRow(c) / kTileRows * kTileRows;
    for (int64_t r = first; r < tile.rows; r += kTileRows) {
      MultiplyTile<2, false, false>(rows + r * row_stride, row_stride, transposed + c * head_dim,
                                    panel, head_dim, scores + r * kKeyBlock + c, kKeyBlock);
    }
  }
}

// sums[r, :] += sum_c weights[r, c] right[c, :], over the columns that the rows' tile sees.
inline void AddWeightedKeys(const Tile& tile, const float* weights, const Panels& right,
                            int64_t padded_columns, float* sums, int64_t sums_stride) {
  const int64_t lanes = NumLanes();
  for (int64_t n = 0, p = 0; n < padded_columns; n += 2 * lanes, ++p) {
    const float* b = right.data + p * right.panel_stride;
    for (int64_t r = 0; r < tile.rows; r += kTileRows) {
      const int64_t depth = tile.Visible(r + kTileRows - 1);
      const float* a = weights + r * kKeyBlock;
      float* c = sums + r * sums_stride + n;
      if (n + lanes < padded_columns) {
        MultiplyTile<2, false, true>(a, kKeyBlock, b, right.row_stride, depth, c, sums_stride);
      } else {
        MultiplyTile<1, false, true>(a, kKeyBlock, b, right.row_stride, depth, c, sums_stride);
      }
    }
  }
}

// sums[c, :] += sum_r weights[r, c] right[r, :], over the rows that see column c. Weights must be
// zero above the diagonal.
inline void AddWeightedQueries(const Tile& tile, const float* weights, const Panels& right,
                               int64_t padded_columns, float* sums, int64_t sums_stride) {
  const int64_t lanes = NumLanes();
  for (int64_t n = 0, p = 0; n < padded_columns; n += 2 * lanes, ++p) {
    for (int64_t column = 0; column < tile.columns; column += kTileRows) {
      const int64_t first = tile.FirstRow(column);
      const float* a = weights + first * kKeyBlock + column;
      const float* b = right.data + p * right.panel_stride + first * right.row_stride;
      float* c = sums + column * sums_stride + n;
      const int64_t depth = tile.rows - first;
      if (n + lanes < padded_columns) {
        MultiplyTile<2, true, true>(a, kKeyBlock, b, right.row_stride, depth, c, sums_stride);
      } else {
        MultiplyTile<1, true, true>(a, kKeyBlock, b, right.row_stride, depth, c, sums_stride);
      }
    }
  }
}

// `count` elements as f32 times scale, zeros up to the next whole vector.
template <class T>
HWY_INLINE void LoadRow(const T* from, int64_t count, float scale, float* to) {
  const F32Tag d;
  const int64_t lanes = NumLanes();
  const auto factor = hn::Set(d, scale);
  int64_t i = 0;
  for (; i + lanes <= count; i += lanes)
    hn::StoreU(hn::Mul(LoadF32(d, from + i), factor), d, to + i);
  if (i < count) {
    const auto rest = LoadF32N(d, from + i, static_cast<size_t>(count - i));
    hn::StoreU(hn::Mul(rest, factor), d, to + i);
  }
}

// `count` elements of f32 times scale, rounded once.
template <class T>
HWY_INLINE void StoreRow(const float* from, int64_t count, float scale, T* to) {
  const F32Tag d;
  const int64_t lanes = NumLanes();
  const auto factor = hn::Set(d, scale);
  int64_t i = 0;
  for (; i + lanes <= count; i += lanes)
    StoreF32(d, hn::Mul(hn::LoadU(d, from + i), factor), to + i);
  if (i < count) {
    const auto rest = hn::LoadU(d, from + i);  // accumulators are padded to whole vectors
    StoreF32N(d, hn::Mul(rest, factor), to + i, static_cast<size_t>(count - i));
  }
}

// Rows [begin, begin + count) of one head as panels [count, panel] of its columns.
template <class T>
void PackPanels(const ConstMatrixView& matrix, int64_t begin, int64_t count, int64_t column,
                const AttentionPlan& plan, float* to) {
  const int64_t dim = plan.layout.head_dim;
  for (int64_t j = 0; j < count; ++j) {
    const T* from = matrix.row<T>(begin + j) + column;
    for (int64_t n = 0; n < dim; n += plan.panel)
      LoadRow(from + n, std::min(plan.panel, dim - n), 1.0f, to + n * count + j * plan.panel);
  }
}

// Rows [begin, begin + count) of one head transposed: panels [head_dim, panel] of its rows, zeros
// for the rows that the last panel lacks.
template <class T>
void PackTransposed(const ConstMatrixView& matrix, int64_t begin, int64_t count, int64_t column,
                    const AttentionPlan& plan, float* to) {
  const F32Tag d;
  const int64_t lanes = NumLanes(), dim = plan.layout.head_dim;
  if (lanes < 4) {
    for (int64_t j = 0; j < RoundUp(count, plan.panel); ++j) {
      float* panel = to + j / plan.panel * plan.panel * dim + j % plan.panel;
      for (int64_t i = 0; i < dim; ++i) {
        panel[i * plan.panel] =
            j < count ? static_cast<float>(matrix.row<T>(begin + j)[column + i]) : 0.0f;
      }
    }
    return;
  }
  // Four rows at a time: interleaved, they are the four-float pieces of the transposed rows.
  HWY_ALIGN float pieces[4 * hn::MaxLanes(F32Tag())];
  for (int64_t j = 0; j < RoundUp(count, plan.panel); j += 4) {
    float* panel = to + j / plan.panel * plan.panel * dim + j % plan.panel;
    for (int64_t i = 0; i < dim; i += lanes) {
      const int64_t width = std::min(lanes, dim - i);
      const auto load = [&](int64_t row) -> F32 {
        if (row >= count) return hn::Zero(d);
        const T* from = matrix.row<T>(begin + row) + column + i;
        return width == lanes ? LoadF32(d, from) : LoadF32N(d, from, static_cast<size_t>(width));
      };
      hn::StoreInterleaved4(load(j), load(j + 1), load(j + 2), load(j + 3), d, pieces);
      for (int64_t w = 0; w < width; ++w)
        std::memcpy(panel + (i + w) * plan.panel, pieces + 4 * w, 4 * sizeof(float));
    }
  }
}

// NOLINTNEXTLINE(google-readability-namespace-comments)
}  // namespace plait::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // per-target include guard
