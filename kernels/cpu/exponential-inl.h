// Exponentials for inner loops: no guard that the caller does not need. Included once per target by
// Highway's foreach_target.
#if defined(PLAIT_KERNELS_CPU_EXPONENTIAL_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef PLAIT_KERNELS_CPU_EXPONENTIAL_INL_H_
#undef PLAIT_KERNELS_CPU_EXPONENTIAL_INL_H_
#else
#define PLAIT_KERNELS_CPU_EXPONENTIAL_INL_H_
#endif

#include "kernels/cpu/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace plait::cpu::HWY_NAMESPACE {

inline constexpr float kLog2E = 1.44269504088896341f;
inline constexpr float kLn2 = 0.69314718055994531f;
// Exp2 gives normal numbers within +-kExp2Limit and nonsense beyond.
inline constexpr float kExp2Limit = 126.0f;

// 2^x, -126 <= x <= 126, x whole + rest with |rest| <= 1/2: the whole part comes from adding 1.5 x
// 2^23, which leaves it in the low bits (and needs no multiplier), the rest from a polynomial
// fitted for the smallest relative error (9e-8) with 2^0 exactly 1.
inline F32 Exp2(F32Tag d, F32 x) {
  const hn::RebindToSigned<F32Tag> di;
  const auto shift = hn::Set(d, 12582912.0f);
  const auto shifted = hn::Add(x, shift);
  const auto rest = hn::Sub(x, hn::Sub(shifted, shift));
  auto p = hn::Set(d, 0.0013264722f);
  p = hn::MulAdd(p, rest, hn::Set(d, 0.009671513f));
  p = hn::MulAdd(p, rest, hn::Set(d, 0.0555073376f));
  p = hn::MulAdd(p, rest, hn::Set(d, 0.240222421f));
  p = hn::MulAdd(p, rest, hn::Set(d, 0.693146978f));
  p = hn::MulAdd(p, rest, hn::Set(d, 1.0f));
  const auto exponent = hn::ShiftLeft<23>(hn::BitCast(di, shifted));
  return hn::BitCast(d, hn::Add(hn::BitCast(di, p), exponent));
}

// 1 / (1 + exp(-x)) for any number. A NaN may come out as a number: products with x keep it.
inline F32 Logistic(F32Tag d, F32 x) {
  const auto exponent = hn::Mul(x, hn::Set(d, -kLog2E));
  const auto e =
      Exp2(d, hn::Min(hn::Max(exponent, hn::Set(d, -kExp2Limit)), hn::Set(d, kExp2Limit)));
  return hn::Div(hn::Set(d, 1.0f), hn::Add(hn::Set(d, 1.0f), e));
}

struct SoftplusAndSlope {
  F32 value;  // log(1 + exp(x))
  F32 slope;  // 1 / (1 + exp(-x))
};

// With u = exp(-|x|): max(x, 0) + log(1 + u), and log(1 + u) = 2 atanh(s) with s = u / (2 + u) <=
// 1/3, s times a polynomial of s^2 (relative error 4e-9). Small results keep their relative
// precision, and above 17 the sum is x itself. NaN stays NaN.
inline SoftplusAndSlope Softplus(F32Tag d, F32 x) {
  const auto one = hn::Set(d, 1.0f);
  const auto u =
      Exp2(d, hn::Max(hn::Mul(hn::Abs(x), hn::Set(d, -kLog2E)), hn::Set(d, -kExp2Limit)));
  const auto s = hn::Div(u, hn::Add(hn::Set(d, 2.0f), u));
  const auto q = hn::Mul(s, s);
  auto p = hn::Set(d, 0.2817833512f);
  p = hn::MulAdd(p, q, hn::Set(d, 0.2796060271f));
  p = hn::MulAdd(p, q, hn::Set(d, 0.4002491029f));
  p = hn::MulAdd(p, q, hn::Set(d, 0.6666631468f));
  p = hn::MulAdd(p, q, hn::Set(d, 2.0f));
  const auto negative = hn::Lt(x, hn::Zero(d));
  const auto value = hn::MulAdd(s, p, hn::IfThenZeroElse(negative, x));
  const auto slope = hn::Div(hn::IfThenElse(negative, u, one), hn::Add(one, u));
  return {hn::IfThenElse(hn::IsNaN(x), x, value), slope};
}

// NOLINTNEXTLINE(google-readability-namespace-comments)
}  // namespace plait::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // per-target include guard
