// Packing for the own matrix product: blocks of bf16 or f32 rows widened into f32 scratch, as they
// are or transposed. Included once per target (hence the toggled guard).
#if defined(PLAIT_KERNELS_CPU_GEMM_PACK_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef PLAIT_KERNELS_CPU_GEMM_PACK_INL_H_
#undef PLAIT_KERNELS_CPU_GEMM_PACK_INL_H_
#else
#define PLAIT_KERNELS_CPU_GEMM_PACK_INL_H_
#endif

#include "kernels/cpu/gemm.h"
#include "kernels/cpu/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace plait::cpu::HWY_NAMESPACE {

#if HWY_TARGET != HWY_SCALAR
using QuadTag = hn::CappedTag<float, 4>;
using Quad = hn::Vec<QuadTag>;

inline Quad LoadQuad([[maybe_unused]] QuadTag d, const float* from) { return hn::LoadU(d, from); }
inline Quad LoadQuad(QuadTag d, const BFloat16* from) {
  const hn::Rebind<uint16_t, QuadTag> d16;
  const hn::Rebind<uint32_t, QuadTag> d32;
  const auto bits = hn::LoadU(d16, reinterpret_cast<const uint16_t*>(from));
  return hn::BitCast(d, hn::ShiftLeft<16>(hn::PromoteTo(d32, bits)));
}
#endif

template <class T>
const T* OperandRow(const GemmOperand& operand, int64_t row) {
  if (operand.row_index != nullptr) row = operand.row_index[row];
  return static_cast<const T*>(operand.data) + row * operand.row_stride;
}

// to[r * stride + c] = row (row_begin + r), column (column_begin + c).
template <class T>
void CopyBlock(const GemmOperand& operand, int64_t row_begin, int64_t rows, int64_t column_begin,
               int64_t columns, float* HWY_RESTRICT to, int64_t stride) {
  const F32Tag d;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  for (int64_t r = 0; r < rows; ++r) {
    const T* HWY_RESTRICT from = OperandRow<T>(operand, row_begin + r) + column_begin;
    float* HWY_RESTRICT out = to + r * stride;
    int64_t c = 0;
    for (; c + lanes <= columns; c += lanes) hn::StoreU(LoadF32(d, from + c), d, out + c);
    for (; c < columns; ++c) out[c] = static_cast<float>(from[c]);
  }
}

#if HWY_TARGET != HWY_SCALAR
// Four rows by four columns, transposed in registers.
template <class T>
void TransposeQuad(const T* const* rows, int64_t column, float* HWY_RESTRICT to, int64_t stride) {
  const QuadTag d;
  const hn::RepartitionToWide<QuadTag> d64;
  const auto r0 = LoadQuad(d, rows[0] + column), r1 = LoadQuad(d, rows[1] + column);
  const auto r2 = LoadQuad(d, rows[2] + column), r3 = LoadQuad(d, rows[3] + column);
  const auto low01 = hn::BitCast(d64, hn::InterleaveLower(d, r0, r1));
  const auto low23 = hn::BitCast(d64, hn::InterleaveLower(d, r2, r3));
  const auto high01 = hn::BitCast(d64, hn::InterleaveUpper(d, r0, r1));
  const auto high23 = hn::BitCast(d64, hn::InterleaveUpper(d, r2, r3));
  hn::StoreU(hn::BitCast(d, hn::InterleaveLower(d64, low01, low23)), d, to);
  hn::StoreU(hn::BitCast(d, hn::InterleaveUpper(d64, low01, low23)), d, to + stride);
  hn::StoreU(hn::BitCast(d, hn::InterleaveLower(d64, high01, high23)), d, to + 2 * stride);
  hn::StoreU(hn::BitCast(d, hn::InterleaveUpper(d64, high01, high23)), d, to + 3 * stride);
}
#endif

// to[c * stride + r] = row (row_begin + r), column (column_begin + c).
template <class T>
void TransposeBlock(const GemmOperand& operand, int64_t row_begin, int64_t rows,
                    int64_t column_begin, int64_t columns, float* HWY_RESTRICT to, int64_t stride) {
  int64_t r = 0;
#if HWY_TARGET != HWY_SCALAR
  for (; r + 4 <= rows; r += 4) {
    const T* from[4];
    for (int64_t i = 0; i < 4; ++i) {
      from[i] = OperandRow<T>(operand, row_begin + r + i) + column_begin;
    }
    int64_t c = 0;
    for (; c + 4 <= columns; c += 4) TransposeQuad(from, c, to + c * stride + r, stride);
    for (; c < columns; ++c) {
      for (int64_t i = 0; i < 4; ++i) to[c * stride + r + i] = static_cast<float>(from[i][c]);
    }
  }
#endif
  for (; r < rows; ++r) {
    const T* from = OperandRow<T>(operand, row_begin + r) + column_begin;
    for (int64_t c = 0; c < columns; ++c) to[c * stride + r] = static_cast<float>(from[c]);
  }
}

// The block [row_begin, + rows) x [column_begin, + columns) of op(operand), row-major with
// `stride`.
inline void PackBlock(const GemmOperand& operand, int64_t row_begin, int64_t rows,
                      int64_t column_begin, int64_t columns, float* to, int64_t stride) {
  if (operand.transpose == Transpose::kNo) {
    if (operand.dtype == DType::kF32) {
      CopyBlock<float>(operand, row_begin, rows, column_begin, columns, to, stride);
    } else {
      CopyBlock<BFloat16>(operand, row_begin, rows, column_begin, columns, to, stride);
    }
  } else {
    if (operand.dtype == DType::kF32) {
      TransposeBlock<float>(operand, column_begin, columns, row_begin, rows, to, stride);
    } else {
      TransposeBlock<BFloat16>(operand, column_begin, columns, row_begin, rows, to, stride);
    }
  }
}

// NOLINTNEXTLINE(google-readability-namespace-comments)
}  // namespace plait::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // per-target include guard
