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
  // In pairs: the inner loops wait for this chain rather than for the multipliers.
  const auto square = hn::Mul(rest, rest);
  const auto p01 = hn::MulAdd(hn::Set(d, 0.693146978f), rest, hn::Set(d, 1.0f));
  const auto p23 = hn::MulAdd(hn::Set(d, 0.0555073376f), rest, hn::Set(d, 0.240222421f));
  const auto p45 = hn::MulAdd(hn::Set(d, 0.0013264722f), rest, hn::Set(d, 0.009671513f));
  const auto p = hn::MulAdd(hn::MulAdd(p45, square, p23), square, p01);
  const auto exponent = hn::ShiftLeft<23>(hn::BitCast(di, shifted));
  return hn::BitCast(d, hn::Add(hn::BitCast(di, p), exponent));
}

// exp(-|x|), at least 2^-126: what the functions below are made of. A loop that needs many of them
// takes it in a pass of its own: the shorter the chain of dependent instructions, the more of the
// loop's turns the processor overlaps.
inline F32 ExpOfMinusAbs(F32Tag d, F32 x) {
  const auto exponent = hn::Mul(hn::Abs(x), hn::Set(d, -kLog2E));
  return Exp2(d, hn::Max(exponent, hn::Set(d, -kExp2Limit)));
}

// 1 / (1 + exp(-x)), with u = ExpOfMinusAbs(x). A NaN may come out as a number: products with x
// keep it.
inline F32 Logistic(F32Tag d, F32 x, F32 u) {
  const auto one = hn::Set(d, 1.0f);
  return hn::Div(hn::IfThenElse(hn::Lt(x, hn::Zero(d)), u, one), hn::Add(one, u));
}
inline F32 Logistic(F32Tag d, F32 x) { return Logistic(d, x, ExpOfMinusAbs(d, x)); }

// log(1 + exp(x)), with u = ExpOfMinusAbs(x): max(x, 0) + log(1 + u), and log(1 + u) = 2 atanh(s)
// with s = u / (2 + u) <= 1/3, s times a polynomial of s^2 (relative error 4e-9). Small results
// keep their relative precision, and above 17 the sum is x itself. NaN stays NaN.
inline F32 Softplus(F32Tag d, F32 x, F32 u) {
  const auto s = hn::Div(u, hn::Add(hn::Set(d, 2.0f), u));
  const auto q = hn::Mul(s, s);
  const auto p01 = hn::MulAdd(q, hn::Set(d, 0.6666631468f), hn::Set(d, 2.0f));
  auto p = hn::MulAdd(q, hn::Set(d, 0.2817833512f), hn::Set(d, 0.2796060271f));
  p = hn::MulAdd(p, q, hn::Set(d, 0.4002491029f));
  p = hn::MulAdd(p, hn::Mul(q, q), p01);
  const auto positive = hn::IfThenZeroElse(hn::Lt(x, hn::Zero(d)), x);
  return hn::IfThenElse(hn::IsNaN(x), x, hn::MulAdd(s, p, positive));
}

// NOLINTNEXTLINE(google-readability-namespace-comments)
}  // namespace plait::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // per-target include guard
