#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/rms_norm.cc"
#include "hwy/foreach_target.h"
// foreach_target first: it includes this file once per target.
#include <cmath>

#include "kernels/cpu/rms_norm.h"
#include "kernels/cpu/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace plait::cpu::HWY_NAMESPACE {

// One row: residual addition, both sums of squares and the largest |x| in one pass, the scaling in
// a second one that finds the row in cache.
template <class T, class W>
void ForwardRow(const RmsNormForwardArgs& args, int64_t t) {
  const F32Tag d;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  const int64_t dim = args.x.columns;
  const T* x = args.x.row<T>(t);
  const T* residual = args.residual ? args.residual.row<T>(t) : nullptr;
  T* sum = args.residual ? args.sum.row<T>(t) : nullptr;
  const W* weight = args.weight.as<W>();
  T* y = args.y.row<T>(t);

  auto squares = hn::Zero(d), x_squares = hn::Zero(d), x_max = hn::Zero(d);
  const auto accumulate = [&](F32 value, int64_t i, size_t count) {
    x_squares = hn::MulAdd(value, value, x_squares);
    x_max = hn::Max(x_max, hn::Abs(value));
    F32 r = value;
    if (residual != nullptr) {
      const bool whole = count == static_cast<size_t>(lanes);
      const F32 unrounded =
          hn::Add(whole ? LoadF32(d, residual + i) : LoadF32N(d, residual + i, count), value);
      // The sum is rounded once to its dtype; the norm is that of the rounded sum, as in the
      // reference.
      if (whole) {
        StoreF32(d, unrounded, sum + i);
        r = LoadF32(d, sum + i);
      } else {
        StoreF32N(d, unrounded, sum + i, count);
        r = LoadF32N(d, sum + i, count);
      }
    }
    squares = hn::MulAdd(r, r, squares);
  };
  int64_t i = 0;
  for (; i + lanes <= dim; i += lanes) accumulate(LoadF32(d, x + i), i, static_cast<size_t>(lanes));
  if (i < dim)
    accumulate(LoadF32N(d, x + i, static_cast<size_t>(dim - i)), i, static_cast<size_t>(dim - i));

  const float mean = hn::GetLane(hn::SumOfLanes(d, squares)) / static_cast<float>(dim);
  const float s = 1.0f / std::sqrt(mean + static_cast<float>(args.epsilon));
  const T* r = residual != nullptr ? sum : x;
  const auto scale = hn::Set(d, s);
  i = 0;
  for (; i + lanes <= dim; i += lanes) {
    StoreF32(d, hn::Mul(hn::Mul(LoadF32(d, r + i), scale), LoadF32(d, weight + i)), y + i);
  }
  if (i < dim) {
    const auto count = static_cast<size_t>(dim - i);
    StoreF32N(d, hn::Mul(hn::Mul(LoadF32N(d, r + i, count), scale), LoadF32N(d, weight + i, count)),
              y + i, count);
  }
  if (args.inverse_rms) args.inverse_rms.as<float>()[t] = s;
  if (args.activation_square_sum) {
    args.activation_square_sum.as<float>()[t] = hn::GetLane(hn::SumOfLanes(d, x_squares));
  }
  if (args.activation_absolute_max) {
    args.activation_absolute_max.as<float>()[t] = hn::GetLane(hn::MaxOfLanes(d, x_max));
  }
}

template <class T, class W>
void Forward(const RmsNormForwardArgs& args, int num_threads) {
#pragma omp parallel for num_threads(num_threads) schedule(static)
  for (int64_t t = 0; t < args.x.rows; ++t) ForwardRow<T, W>(args, t);
}

template <class T, class W>
void BackwardRow(const RmsNormBackwardArgs& args, int64_t t) {
  const F32Tag d;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  const int64_t dim = args.r.columns;
  const T* dy = args.dy.row<T>(t);
  const T* r = args.r.row<T>(t);
  const T* dr_in = args.dr_in ? args.dr_in.row<T>(t) : nullptr;
  const W* weight = args.weight.as<W>();
  T* dr = args.dr.row<T>(t);
  const float s = args.inverse_rms.as<float>()[t];

  auto dot = hn::Zero(d);
  int64_t i = 0;
  for (; i + lanes <= dim; i += lanes) {
    dot = hn::MulAdd(hn::Mul(LoadF32(d, dy + i), LoadF32(d, weight + i)), LoadF32(d, r + i), dot);
  }
  if (i < dim) {
    const auto count = static_cast<size_t>(dim - i);
    const auto g = hn::Mul(LoadF32N(d, dy + i, count), LoadF32N(d, weight + i, count));
    dot = hn::MulAdd(g, LoadF32N(d, r + i, count), dot);
  }
  const float mean = hn::GetLane(hn::SumOfLanes(d, dot)) / static_cast<float>(dim);
  const auto scale = hn::Set(d, s);
  const auto back = hn::Set(d, -s * s * s * mean);
  const auto combine = [&](F32 dy_v, F32 w_v, F32 r_v, F32 in_v) {
    return hn::Add(in_v, hn::MulAdd(r_v, back, hn::Mul(hn::Mul(dy_v, w_v), scale)));
  };
  i = 0;
  for (; i + lanes <= dim; i += lanes) {
    const auto in = dr_in != nullptr ? LoadF32(d, dr_in + i) : hn::Zero(d);
    StoreF32(d, combine(LoadF32(d, dy + i), LoadF32(d, weight + i), LoadF32(d, r + i), in), dr + i);
  }
  if (i < dim) {
    const auto count = static_cast<size_t>(dim - i);
    const auto in = dr_in != nullptr ? LoadF32N(d, dr_in + i, count) : hn::Zero(d);
    StoreF32N(d,
              combine(LoadF32N(d, dy + i, count), LoadF32N(d, weight + i, count),
                      LoadF32N(d, r + i, count), in),
              dr + i, count);
  }
}

// Columns [begin, end) of dweight: tokens in order, so that the sum does not depend on the threads.
template <class T>
void WeightGradientColumns(const RmsNormBackwardArgs& args, int64_t begin, int64_t end) {
  const F32Tag d;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  float* dweight = args.dweight.as<float>();
  for (int64_t t = 0; t < args.r.rows; ++t) {
    const T* dy = args.dy.row<T>(t);
    const T* r = args.r.row<T>(t);
    const auto s = hn::Set(d, args.inverse_rms.as<float>()[t]);
    int64_t i = begin;
    for (; i + lanes <= end; i += lanes) {
      const auto product = hn::Mul(hn::Mul(LoadF32(d, r + i), s), LoadF32(d, dy + i));
      hn::StoreU(hn::Add(hn::LoadU(d, dweight + i), product), d, dweight + i);
    }
    for (; i < end; ++i) {
      dweight[i] +=
          static_cast<float>(r[i]) * args.inverse_rms.as<float>()[t] * static_cast<float>(dy[i]);
    }
  }
}

template <class T, class W>
void Backward(const RmsNormBackwardArgs& args, int num_threads) {
  constexpr int64_t kColumns = 64;
  const int64_t dim = args.r.columns;
  // dweight first: dr may be the memory of an input of the row pass only.
#pragma omp parallel for num_threads(num_threads) schedule(static)
  for (int64_t begin = 0; begin < dim; begin += kColumns) {
    WeightGradientColumns<T>(args, begin, begin + kColumns < dim ? begin + kColumns : dim);
  }
#pragma omp parallel for num_threads(num_threads) schedule(static)
  for (int64_t t = 0; t < args.r.rows; ++t) BackwardRow<T, W>(args, t);
}

// Dispatch on (activation, weight) dtypes: W is T or f32.
void ForwardAny(const RmsNormForwardArgs& args, int num_threads) {
  if (args.x.dtype == DType::kF32) return Forward<float, float>(args, num_threads);
  if (args.weight.dtype == DType::kF32) return Forward<BFloat16, float>(args, num_threads);
  Forward<BFloat16, BFloat16>(args, num_threads);
}

void BackwardAny(const RmsNormBackwardArgs& args, int num_threads) {
  if (args.r.dtype == DType::kF32) return Backward<float, float>(args, num_threads);
  if (args.weight.dtype == DType::kF32) return Backward<BFloat16, float>(args, num_threads);
  Backward<BFloat16, BFloat16>(args, num_threads);
}

// NOLINTNEXTLINE(google-readability-namespace-comments)
}  // namespace plait::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace plait::cpu {
namespace {

HWY_EXPORT(ForwardAny);
HWY_EXPORT(BackwardAny);

std::string Accepts(DType x, DType weight) {
  if (x == DType::kF64) return "f64";
  if (weight != x && weight != DType::kF32)
    return "weight is neither f32 nor of the activation's dtype";
  return "";
}

}  // namespace

std::string AcceptsRmsNormForward(const RmsNormForwardArgs& args) {
  return Accepts(args.x.dtype, args.weight.dtype);
}
std::string AcceptsRmsNormBackward(const RmsNormBackwardArgs& args) {
  return Accepts(args.r.dtype, args.weight.dtype);
}

absl::Status RmsNormForward(Execution& execution, const RmsNormForwardArgs& args) {
  HWY_DYNAMIC_DISPATCH(ForwardAny)(args, execution.num_threads());
  return absl::OkStatus();
}

absl::Status RmsNormBackward(Execution& execution, const RmsNormBackwardArgs& args) {
  HWY_DYNAMIC_DISPATCH(BackwardAny)(args, execution.num_threads());
  return absl::OkStatus();
}

}  // namespace plait::cpu
#endif  // HWY_ONCE
