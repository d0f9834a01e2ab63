#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/gated_activation.cc"
#include "hwy/foreach_target.h"
// foreach_target first: it includes this file once per target.

#include "kernels/cpu/gated_activation.h"
#include "kernels/cpu/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace plait::cpu::HWY_NAMESPACE {

template <class T>
void ForwardRow(const GatedActivationForwardArgs& args, int64_t row) {
  const F32Tag d;
  const T* gate = args.gate.row<T>(row);
  const T* up = args.up.row<T>(row);
  T* out = args.out.row<T>(row);
  const auto weight = hn::Set(d, args.row_weight ? args.row_weight.as<float>()[row] : 1.0f);
  ForEachVector(0, args.gate.columns, [&](int64_t i, auto access) PLAIT_INLINE_BODY {
    const auto x = access.Load(d, gate + i);
    const auto silu = hn::Mul(x, Sigmoid(d, x));
    access.Store(d, hn::Mul(hn::Mul(weight, silu), access.Load(d, up + i)), out + i);
  });
}

// dgate and dup may lie in gate and up: an element is written after it is read.
template <class T>
void BackwardRow(const GatedActivationBackwardArgs& args, int64_t row) {
  const F32Tag d;
  const T* gate = args.gate.row<T>(row);
  const T* up = args.up.row<T>(row);
  const T* dout = args.dout.row<T>(row);
  T* dgate = args.dgate.row<T>(row);
  T* dup = args.dup.row<T>(row);
  const auto weight = hn::Set(d, args.row_weight ? args.row_weight.as<float>()[row] : 1.0f);
  const auto one = hn::Set(d, 1.0f);
  auto dweight = hn::Zero(d);
  ForEachVector(0, args.gate.columns, [&](int64_t i, auto access) PLAIT_INLINE_BODY {
    const auto x = access.Load(d, gate + i), u = access.Load(d, up + i);
    const auto dy = access.Load(d, dout + i);
    const auto sigmoid = Sigmoid(d, x);
    const auto silu = hn::Mul(x, sigmoid);
    // silu'(x) = s (1 + x (1 - s)) = s + silu (1 - s)
    const auto slope = hn::MulAdd(silu, hn::Sub(one, sigmoid), sigmoid);
    const auto weighted = hn::Mul(weight, dy);
    dweight = hn::MulAdd(hn::Mul(dy, silu), u, dweight);
    access.Store(d, hn::Mul(hn::Mul(weighted, u), slope), dgate + i);
    access.Store(d, hn::Mul(weighted, silu), dup + i);
  });
  if (args.drow_weight) args.drow_weight.as<float>()[row] = hn::GetLane(hn::SumOfLanes(d, dweight));
}

void ForwardAny(const GatedActivationForwardArgs& args, int num_threads) {
  WithElementType(args.gate.dtype, [&](auto element) {
    using T = decltype(element);
#pragma omp parallel for num_threads(num_threads) schedule(static)
    for (int64_t row = 0; row < args.gate.rows; ++row) ForwardRow<T>(args, row);
  });
}

void BackwardAny(const GatedActivationBackwardArgs& args, int num_threads) {
  WithElementType(args.gate.dtype, [&](auto element) {
    using T = decltype(element);
#pragma omp parallel for num_threads(num_threads) schedule(static)
    for (int64_t row = 0; row < args.gate.rows; ++row) BackwardRow<T>(args, row);
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

constexpr char kOtherDType[] = "matrices of different dtypes";

}  // namespace

std::string AcceptsGatedActivationForward(const GatedActivationForwardArgs& args) {
  const DType dtype = args.gate.dtype;
  if (dtype == DType::kF64) return "f64";
  if (args.up.dtype != dtype || args.out.dtype != dtype) return kOtherDType;
  if (args.row_weight && args.row_weight.dtype != DType::kF32) return "row_weight is not f32";
  return "";
}

std::string AcceptsGatedActivationBackward(const GatedActivationBackwardArgs& args) {
  const DType dtype = args.gate.dtype;
  if (dtype == DType::kF64) return "f64";
  if (args.up.dtype != dtype || args.dout.dtype != dtype || args.dgate.dtype != dtype ||
      args.dup.dtype != dtype)
    return kOtherDType;
  if (args.row_weight && args.row_weight.dtype != DType::kF32) return "row_weight is not f32";
  if (args.drow_weight && args.drow_weight.dtype != DType::kF32) return "drow_weight is not f32";
  return "";
}

absl::Status GatedActivationForward(Execution& execution, const GatedActivationForwardArgs& args) {
  HWY_DYNAMIC_DISPATCH(ForwardAny)(args, execution.num_threads());
  return absl::OkStatus();
}

absl::Status GatedActivationBackward(Execution& execution,
                                     const GatedActivationBackwardArgs& args) {
  HWY_DYNAMIC_DISPATCH(BackwardAny)(args, execution.num_threads());
  return absl::OkStatus();
}

}  // namespace plait::cpu
#endif  // HWY_ONCE
