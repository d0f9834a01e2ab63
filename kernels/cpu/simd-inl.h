// Vector helpers shared by the SIMD kernels: bf16 and f32 memory read as f32 vectors and written
// with one rounding to nearest even. Included once per target by Highway's foreach_target (hence
// the toggled guard). Vectors may have any number of lanes; kernels handle the rest of a row with
// the N variants, which touch only `count` elements.
#if defined(PLAIT_KERNELS_CPU_SIMD_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef PLAIT_KERNELS_CPU_SIMD_INL_H_
#undef PLAIT_KERNELS_CPU_SIMD_INL_H_
#else
#define PLAIT_KERNELS_CPU_SIMD_INL_H_
#endif

#include "base/dtype.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace plait::cpu::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using F32Tag = hn::ScalableTag<float>;
using F32 = hn::Vec<F32Tag>;

inline F32 LoadF32([[maybe_unused]] F32Tag d, const float* from) { return hn::LoadU(d, from); }
inline F32 LoadF32(F32Tag d, const BFloat16* from) {
  const hn::Rebind<uint16_t, F32Tag> d16;
  const hn::Rebind<uint32_t, F32Tag> d32;
  const auto bits = hn::LoadU(d16, reinterpret_cast<const uint16_t*>(from));
  return hn::BitCast(d, hn::ShiftLeft<16>(hn::PromoteTo(d32, bits)));
}

inline void StoreF32([[maybe_unused]] F32Tag d, F32 value, float* to) { hn::StoreU(value, d, to); }
inline void StoreF32([[maybe_unused]] F32Tag d, F32 value, BFloat16* to) {
  const hn::Rebind<uint16_t, F32Tag> d16;
  const hn::RebindToUnsigned<F32Tag> d32;
  const auto bits = hn::BitCast(d32, value);
  // u + 0x7fff + (bit 16 of u), upper half: to nearest, ties to even. NaN keeps its upper half with
  // a quiet bit.
  const auto odd = hn::And(hn::ShiftRight<16>(bits), hn::Set(d32, 1u));
  const auto rounded = hn::Add(bits, hn::Add(odd, hn::Set(d32, 0x7fffu)));
  const auto quiet = hn::Or(bits, hn::Set(d32, 0x400000u));
  const auto is_nan = hn::RebindMask(d32, hn::IsNaN(value));
  const auto upper = hn::ShiftRight<16>(hn::IfThenElse(is_nan, quiet, rounded));
  hn::StoreU(hn::TruncateTo(d16, upper), d16, reinterpret_cast<uint16_t*>(to));
}

// The first `count` elements, `rest` (a bf16 value) in the other lanes. count < Lanes(d).
template <class T>
inline F32 LoadF32N(F32Tag d, const T* from, size_t count, float rest = 0.0f) {
  HWY_ALIGN T lanes[hn::MaxLanes(F32Tag())];
  for (size_t i = count; i < hn::MaxLanes(F32Tag()); ++i) lanes[i] = T(rest);
  for (size_t i = 0; i < count; ++i) lanes[i] = from[i];
  return LoadF32(d, lanes);
}
template <class T>
inline void StoreF32N(F32Tag d, F32 value, T* to, size_t count) {
  HWY_ALIGN T lanes[hn::MaxLanes(F32Tag())];
  StoreF32(d, value, lanes);
  for (size_t i = 0; i < count; ++i) to[i] = lanes[i];
}

// exp(x) for x <= 88; below -87.3 it is 0. Range reduction by powers of two and a degree-6
// polynomial: relative error below 3e-7. NaN stays NaN.
inline F32 Exp(F32Tag d, F32 x) {
  const hn::RebindToSigned<F32Tag> di;
  const auto too_small = hn::Lt(x, hn::Set(d, -87.3f));
  // Min and Max return their second operand for NaN on x86, so the input's NaN is put back at the
  // end.
  const auto clamped = hn::Min(hn::Max(x, hn::Set(d, -87.3f)), hn::Set(d, 88.7f));
  const auto n = hn::Round(hn::Mul(clamped, hn::Set(d, 1.44269504088896341f)));
  auto r = hn::NegMulAdd(n, hn::Set(d, 0.693359375f), clamped);
  r = hn::NegMulAdd(n, hn::Set(d, -2.12194440e-4f), r);
  auto p = hn::Set(d, 1.9875691500e-4f);
  p = hn::MulAdd(p, r, hn::Set(d, 1.3981999507e-3f));
  p = hn::MulAdd(p, r, hn::Set(d, 8.3334519073e-3f));
  p = hn::MulAdd(p, r, hn::Set(d, 4.1665795894e-2f));
  p = hn::MulAdd(p, r, hn::Set(d, 1.6666665459e-1f));
  p = hn::MulAdd(p, r, hn::Set(d, 5.0000001201e-1f));
  p = hn::Add(hn::MulAdd(p, hn::Mul(r, r), r), hn::Set(d, 1.0f));
  // 2^n in two factors, so that n = 128 does not overflow early.
  const auto ni = hn::ConvertTo(di, n);
  const auto half = hn::ShiftRight<1>(ni);
  const auto bias = hn::Set(di, 127);
  const auto scale1 = hn::BitCast(d, hn::ShiftLeft<23>(hn::Add(half, bias)));
  const auto scale2 = hn::BitCast(d, hn::ShiftLeft<23>(hn::Add(hn::Sub(ni, half), bias)));
  const auto y = hn::IfThenZeroElse(too_small, hn::Mul(hn::Mul(p, scale1), scale2));
  return hn::IfThenElse(hn::IsNaN(x), x, y);
}

// 1 / (1 + exp(-x)). Exp keeps the denominator finite: below -88.7 the result stays at 3e-39
// instead of reaching 0.
inline F32 Sigmoid(F32Tag d, F32 x) {
  const auto one = hn::Set(d, 1.0f);
  return hn::Div(one, hn::Add(one, Exp(d, hn::Neg(x))));
}

// How ForEachVector's body reads and writes memory: a whole vector, or its first `count` elements
// (the others read as `rest` and are not written).
struct WholeVector {
  template <class T>
  HWY_INLINE F32 Load(F32Tag d, const T* from, float /*rest*/ = 0.0f) const {
    return LoadF32(d, from);
  }
  template <class T>
  HWY_INLINE void Store(F32Tag d, F32 value, T* to) const {
    StoreF32(d, value, to);
  }
};
struct PartOfVector {
  template <class T>
  HWY_INLINE F32 Load(F32Tag d, const T* from, float rest = 0.0f) const {
    return LoadF32N(d, from, count, rest);
  }
  template <class T>
  HWY_INLINE void Store(F32Tag d, F32 value, T* to) const {
    StoreF32N(d, value, to, count);
  }
  size_t count;
};

// body(i, access) for the vectors that begin at i in [begin, end): the formula is written once, for
// whole vectors and for the rest. A body that accumulates should be marked PLAIT_INLINE_BODY, so
// that its sums stay in registers.
#undef PLAIT_INLINE_BODY
#define PLAIT_INLINE_BODY __attribute__((always_inline))
template <class Body>
HWY_INLINE void ForEachVector(int64_t begin, int64_t end, const Body& body) {
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(F32Tag()));
  int64_t i = begin;
  for (; i + lanes <= end; i += lanes) body(i, WholeVector());
  if (i < end) body(i, PartOfVector{static_cast<size_t>(end - i)});
}

// Calls function with a value of the element type of `dtype`: bf16 or f32.
template <class Function>
void WithElementType(DType dtype, const Function& function) {
  if (dtype == DType::kBf16) {
    function(BFloat16());
  } else {
    function(float());
  }
}

// NOLINTNEXTLINE(google-readability-namespace-comments)
}  // namespace plait::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // per-target include guard
