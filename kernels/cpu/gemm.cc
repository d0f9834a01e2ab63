#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/gemm.cc"
#include "hwy/foreach_target.h"
// foreach_target first: it includes this file once per target.
#include <omp.h>

#include <algorithm>
#include <functional>
#include <limits>
#include <vector>

#include "hwy/cache_control.h"
#include "kernels/cpu/gemm.h"
#include "kernels/cpu/gemm_pack-inl.h"
#include "kernels/cpu/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace plait::cpu::HWY_NAMESPACE {
namespace {

// Sums in registers: kRows x kVectors. 12 of AVX2's 16 registers, 24 of AVX-512's 32; one lane has
// no registers to speak of.
#if HWY_TARGET == HWY_SCALAR
constexpr int kRows = 4, kVectors = 2;
#elif HWY_MAX_BYTES >= 64
constexpr int kRows = 6, kVectors = 4;
#else
constexpr int kRows = 6, kVectors = 2;
#endif

constexpr int64_t kInner = kGemmInnerBlock;
// Rows of a are packed as rows of kRowStride; the padding keeps them out of each other's cache
// sets.
constexpr int64_t kRowStride = kInner + 16;
constexpr int64_t kRowBlock = 96;     // rows of a packed at a time: 104 KB, half of a small L2
constexpr int64_t kRowTile = 1536;    // rows and columns for which b is packed once
constexpr int64_t kColumnTile = 256;  // kInner x kColumnTile of b: 256 KB, the other half

// Where a kernel's sums go: out = previous + sum + bias, each absent if null.
struct Tile {
  void* out;
  DType out_dtype;
  int64_t out_stride;
  const float* previous;
  int64_t previous_stride;
  const float* bias;
  int64_t columns;
};

template <class T>
HWY_INLINE void StoreSum(F32 sum, const Tile& tile, int64_t row, int64_t column) {
  const F32Tag d;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  const float* previous =
      tile.previous != nullptr ? tile.previous + row * tile.previous_stride + column : nullptr;
  T* out = static_cast<T*>(tile.out) + row * tile.out_stride + column;
  if (column + lanes <= tile.columns) {
    if (previous != nullptr) sum = hn::Add(hn::LoadU(d, previous), sum);
    if (tile.bias != nullptr) sum = hn::Add(sum, hn::LoadU(d, tile.bias + column));
    StoreF32(d, sum, out);
  } else {
    const auto count = static_cast<size_t>(tile.columns - column);
    if (previous != nullptr) sum = hn::Add(LoadF32N(d, previous, count), sum);
    if (tile.bias != nullptr) sum = hn::Add(sum, LoadF32N(d, tile.bias + column, count));
    StoreF32N(d, sum, out, count);
  }
}

// a: rows of kRowStride; b: k rows of kVectors vectors, of which the first `vectors` are used.
template <int rows, int vectors>
HWY_NOINLINE void Kernel(const float* HWY_RESTRICT a, const float* HWY_RESTRICT b, int64_t k,
                         const Tile& tile) {
  const F32Tag d;
  const size_t lanes = hn::Lanes(d);
  // Earlier sums are read at the end: asked for now, they arrive in time.
  if (tile.previous != nullptr) {
    for (int r = 0; r < rows; ++r) {
      const float* row = tile.previous + r * tile.previous_stride;
      hwy::Prefetch(row);
      hwy::Prefetch(row + vectors * lanes - 1);
    }
  }
  F32 sums[rows][vectors];
  for (auto& row : sums) {
    for (auto& sum : row) sum = hn::Zero(d);
  }
  for (int64_t p = 0; p < k; ++p) {
    F32 columns[vectors];
    for (int v = 0; v < vectors; ++v) columns[v] = hn::Load(d, b + v * lanes);
    for (int r = 0; r < rows; ++r) {
      const F32 factor = hn::Set(d, a[r * kRowStride + p]);
      for (int v = 0; v < vectors; ++v) sums[r][v] = hn::MulAdd(factor, columns[v], sums[r][v]);
    }
    b += kVectors * lanes;
  }
  const bool is_f32 = tile.out_dtype == DType::kF32;
  for (int r = 0; r < rows; ++r) {
    for (int v = 0; v < vectors; ++v) {
      const auto column = static_cast<int64_t>(v * lanes);
      if (is_f32) {
        StoreSum<float>(sums[r][v], tile, r, column);
      } else {
        StoreSum<BFloat16>(sums[r][v], tile, r, column);
      }
    }
  }
}

using KernelFunction = void (*)(const float*, const float*, int64_t, const Tile&);

template <int rows>
KernelFunction KernelOfVectors(int64_t vectors) {
  if constexpr (kVectors == 4) {
    if (vectors == 4) return Kernel<rows, kVectors>;
    if (vectors == 3) return Kernel<rows, kVectors - 1>;
  }
  return vectors == 2 ? Kernel<rows, 2> : Kernel<rows, 1>;
}

KernelFunction KernelOf(int64_t rows, int64_t vectors) {
  switch (rows) {
    case 1:
      return KernelOfVectors<1>(vectors);
    case 2:
      return KernelOfVectors<2>(vectors);
    case 3:
      return KernelOfVectors<3>(vectors);
    case 4:
      return KernelOfVectors<4>(vectors);
    case 5:
      return KernelOfVectors < kRows >= 5 ? 5 : 4 > (vectors);
    default:
      return KernelOfVectors<kRows>(vectors);
  }
}

int64_t PanelColumns() { return kVectors * static_cast<int64_t>(hn::Lanes(F32Tag())); }

// Rows and columns of c that one thread computes.
struct Piece {
  const GemmProblem* problem;
  const float* bias;  // the problem's, as f32 [n], or null
  int64_t row_begin, row_end, column_begin, column_end;
};

int64_t DividedUp(int64_t value, int64_t by) { return (value + by - 1) / by; }
int64_t RoundedUp(int64_t value, int64_t to) { return DividedUp(value, to) * to; }

// Scratch of one thread, in floats: packed a, packed b, sums of earlier inner blocks.
int64_t PackedASize() { return kRowBlock * kRowStride; }
int64_t PackedBSize() { return kInner * RoundedUp(kColumnTile, PanelColumns()); }
bool NeedsPartialSums(const GemmProblem& problem) {
  return problem.c.dtype != DType::kF32 && problem.k > kInner;
}

// At most kRowTile x kColumnTile of c.
void RunTile(const Piece& piece, float* scratch) {
  const GemmProblem& problem = *piece.problem;
  const int64_t panel = PanelColumns();
  const auto lanes = static_cast<int64_t>(hn::Lanes(F32Tag()));
  const int64_t rows = piece.row_end - piece.row_begin;
  const int64_t columns = piece.column_end - piece.column_begin;
  float* packed_a = scratch;
  float* packed_b = packed_a + PackedASize();
  float* partial = packed_b + PackedBSize();
  const bool whole_b = rows > kRowBlock;  // else each panel is used once: packed where it is used
  const auto pack_panel = [&](int64_t inner, int64_t inner_size, int64_t column, float* to) {
    const int64_t count = std::min(panel, columns - column);
    if (count < panel) std::fill(to, to + inner_size * panel, 0.0f);
    PackBlock(problem.b, inner, inner_size, piece.column_begin + column, count, to, panel);
  };
  int64_t inner = 0;
  do {  // once at least: k may be 0
    const int64_t inner_size = std::min(kInner, problem.k - inner);
    const bool first = inner == 0, last = inner + inner_size == problem.k;
    if (whole_b) {
      for (int64_t column = 0; column < columns; column += panel) {
        pack_panel(inner, inner_size, column, packed_b + column * inner_size);
      }
    }
    for (int64_t row = 0; row < rows; row += kRowBlock) {
      const int64_t block = std::min(kRowBlock, rows - row);
      PackBlock(problem.a, piece.row_begin + row, block, inner, inner_size, packed_a, kRowStride);
      for (int64_t column = 0; column < columns; column += panel) {
        float* packed_panel = packed_b + (whole_b ? column * inner_size : 0);
        if (!whole_b) pack_panel(inner, inner_size, column, packed_panel);
        const int64_t count = std::min(panel, columns - column);
        for (int64_t r = 0; r < block; r += kRows) {
          const int64_t c_column = piece.column_begin + column;
          const int64_t c_offset = (piece.row_begin + row + r) * problem.c.row_stride + c_column;
          float* sums = partial + (row + r) * kColumnTile + column;
          int64_t sums_stride = kColumnTile;
          Tile tile{.out_dtype = problem.c.dtype, .out_stride = problem.c.row_stride};
          if (problem.c.dtype == DType::kF32) {
            sums = static_cast<float*>(problem.c.data) + c_offset;
            sums_stride = problem.c.row_stride;
            tile.out = sums;
          } else if (last) {
            tile.out = static_cast<BFloat16*>(problem.c.data) + c_offset;
          } else {
            tile.out = sums;
            tile.out_dtype = DType::kF32;
            tile.out_stride = kColumnTile;
          }
          tile.previous = first && problem.accumulate == Accumulate::kNo ? nullptr : sums;
          tile.previous_stride = sums_stride;
          tile.bias = last && piece.bias != nullptr ? piece.bias + c_column : nullptr;
          tile.columns = count;
          const auto kernel =
              KernelOf(std::min<int64_t>(kRows, block - r), DividedUp(count, lanes));
          kernel(packed_a + r * kRowStride, packed_panel, inner_size, tile);
        }
      }
    }
    inner += inner_size;
  } while (inner < problem.k);
}

void RunPiece(const Piece& piece, float* scratch) {
  Piece tile = piece;
  for (int64_t row = piece.row_begin; row < piece.row_end; row += kRowTile) {
    tile.row_begin = row;
    tile.row_end = std::min(piece.row_end, row + kRowTile);
    for (int64_t column = piece.column_begin; column < piece.column_end; column += kColumnTile) {
      tile.column_begin = column;
      tile.column_end = std::min(piece.column_end, column + kColumnTile);
      RunTile(tile, scratch);
    }
  }
}

// Cost of rows x columns of c per inner index, in products: the products themselves, and packing.
int64_t Cost(int64_t rows, int64_t columns) {
  return RoundedUp(rows, kRows) * RoundedUp(columns, PanelColumns()) + 3 * rows + 6 * columns;
}

// Adds the problem to `pieces`, cut into about `count` parts: the grid whose largest part costs
// least.
void Cut(const Piece& whole, int64_t count, std::vector<Piece>& pieces) {
  const int64_t m = whole.row_end, n = whole.column_end;
  const auto part = [](int64_t size, int64_t parts, int64_t unit) {
    return RoundedUp(DividedUp(size, parts), unit);
  };
  int64_t best_rows = m, best_columns = n, best_cost = std::numeric_limits<int64_t>::max();
  for (int64_t row_parts = 1; row_parts <= count; ++row_parts) {
    const int64_t rows = std::min(m, part(m, row_parts, kRows));
    const int64_t columns = std::min(n, part(n, DividedUp(count, row_parts), PanelColumns()));
    const int64_t parts = DividedUp(m, rows) * DividedUp(n, columns);
    const int64_t cost = Cost(rows, columns) * DividedUp(parts, count);
    if (cost < best_cost) {
      best_cost = cost;
      best_rows = rows;
      best_columns = columns;
    }
  }
  for (int64_t row = 0; row < m; row += best_rows) {
    for (int64_t column = 0; column < n; column += best_columns) {
      Piece piece = whole;
      piece.row_begin = row;
      piece.row_end = std::min(m, row + best_rows);
      piece.column_begin = column;
      piece.column_end = std::min(n, column + best_columns);
      pieces.push_back(piece);
    }
  }
}

}  // namespace

void RunProblems(Execution& execution, std::span<const GemmProblem> problems) {
  // Below this many products a second thread costs more than it brings.
  constexpr int64_t kProductsPerThread = 1 << 18;
  int64_t products = 0, bias_size = 0;
  bool partial_sums = false;
  for (const GemmProblem& problem : problems) {
    products += problem.m * problem.n * problem.k;
    if (problem.bias) bias_size += problem.n;
    partial_sums |= NeedsPartialSums(problem);
  }
  const int64_t threads =
      std::clamp<int64_t>(products / kProductsPerThread, 1, execution.num_threads());
  const int64_t scratch_size =
      PackedASize() + PackedBSize() + (partial_sums ? kRowTile * kColumnTile : 0);
  const std::shared_ptr<void> block = execution.allocator().Allocate(
      static_cast<size_t>(threads * scratch_size + bias_size) * sizeof(float));
  auto* scratch = static_cast<float*>(block.get());
  float* bias = scratch + threads * scratch_size;

  std::vector<Piece> pieces;
  for (const GemmProblem& problem : problems) {
    if (problem.m == 0 || problem.n == 0) continue;
    Piece whole{&problem, nullptr, 0, problem.m, 0, problem.n};
    if (problem.bias) {
      whole.bias = bias;
      const GemmOperand row{.data = problem.bias.data, .dtype = problem.bias.dtype};
      PackBlock(row, 0, 1, 0, problem.n, bias, 0);
      bias += problem.n;
    }
    // One problem is cut into a part per thread. Several are cut finer, so that the largest does
    // not decide when all are done.
    const int64_t share = problems.size() == 1 ? threads : 2 * threads;
    const int64_t own = problem.m * problem.n * problem.k;
    Cut(whole, threads == 1 ? 1 : std::max<int64_t>(1, DividedUp(own * share, products)), pieces);
  }
  if (threads == 1) {
    for (const Piece& piece : pieces) RunPiece(piece, scratch);
    return;
  }
  // Largest first; which thread takes a piece does not matter to its bits.
  std::ranges::stable_sort(pieces, std::greater<>(), [](const Piece& piece) {
    return (piece.row_end - piece.row_begin) * (piece.column_end - piece.column_begin) *
           piece.problem->k;
  });
  const auto num_pieces = static_cast<int64_t>(pieces.size());
  float* const scratch_begin = scratch;
#pragma omp parallel num_threads(static_cast <int>(threads))
  {
    float* own_scratch = scratch_begin + omp_get_thread_num() * scratch_size;
#pragma omp for schedule(dynamic, 1)
    for (int64_t i = 0; i < num_pieces; ++i) RunPiece(pieces[static_cast<size_t>(i)], own_scratch);
  }
}

// NOLINTNEXTLINE(google-readability-namespace-comments)
}  // namespace plait::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace plait::cpu {
namespace {

HWY_EXPORT(RunProblems);

}  // namespace

void Gemm(Execution& execution, std::span<const GemmProblem> problems) {
  HWY_DYNAMIC_DISPATCH(RunProblems)(execution, problems);
}

}  // namespace plait::cpu
#endif  // HWY_ONCE
