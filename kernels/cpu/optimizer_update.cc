#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/optimizer_update.cc"
#include "hwy/foreach_target.h"
// foreach_target first: it includes this file once per target.
#include <algorithm>
#include <cmath>

#include "kernels/cpu/optimizer_update.h"
#include "kernels/cpu/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace plait::cpu::HWY_NAMESPACE {

// body(tensor, begin, end) on num_threads threads, for parts of all tensors. Laid end to end they
// are cut into one part of equal size for each thread, inside of a tensor at multiples of `grain`.
template <class Tensors, class Size, class Body>
void ShareOut(const Tensors& tensors, int num_threads, int64_t grain, const Size& size_of,
              const Body& body) {
  int64_t total = 0;
  for (const auto& tensor : tensors) total += size_of(tensor);
#pragma omp parallel for num_threads(num_threads) schedule(static)
  for (int64_t part = 0; part < num_threads; ++part) {
    const int64_t part_begin = total * part / num_threads;
    const int64_t part_end = total * (part + 1) / num_threads;
    int64_t before = 0;  // size of the tensors before this one
    for (const auto& tensor : tensors) {
      const int64_t size = size_of(tensor);
      const auto cut = [&](int64_t at) {
        return std::min(size, (std::max<int64_t>(at - before, 0) + grain - 1) / grain * grain);
      };
      if (cut(part_begin) < cut(part_end)) body(tensor, cut(part_begin), cut(part_end));
      before += size;
    }
  }
}

// The update's factors, made in double and rounded once:
//   p = p * keep - rate * m / (sqrt(v) * inverse_root + epsilon)
// with a tensor's keep = 1 - learning_rate * weight_decay.
struct AdamWFactors {
  explicit AdamWFactors(const AdamWUpdateArgs& args) {
    const double step = static_cast<double>(args.step);
    gradient_scale = static_cast<float>(args.gradient_scale);
    beta1 = static_cast<float>(args.beta1);
    beta2 = static_cast<float>(args.beta2);
    one_minus_beta1 = static_cast<float>(1.0 - args.beta1);
    one_minus_beta2 = static_cast<float>(1.0 - args.beta2);
    rate = static_cast<float>(args.learning_rate / (1.0 - std::pow(args.beta1, step)));
    inverse_root = static_cast<float>(1.0 / std::sqrt(1.0 - std::pow(args.beta2, step)));
    epsilon = static_cast<float>(args.epsilon);
  }
  float gradient_scale, beta1, beta2, one_minus_beta1, one_minus_beta2;
  float rate, inverse_root, epsilon;
};

// Elements [begin, end). C: element type of the copy; no copy where `compute` is null.
template <class C>
void AdamWRange(const AdamWTensor& tensor, const AdamWFactors& factors, float tensor_keep,
                int64_t begin, int64_t end) {
  const F32Tag d;
  float* parameter = tensor.parameter.as<float>();
  const float* gradient = tensor.gradient.as<float>();
  float* first = tensor.first_moment.as<float>();
  float* second = tensor.second_moment.as<float>();
  C* compute = tensor.compute.as<C>();
  const auto gradient_scale = hn::Set(d, factors.gradient_scale);
  const auto beta1 = hn::Set(d, factors.beta1), beta2 = hn::Set(d, factors.beta2);
  const auto one_minus_beta1 = hn::Set(d, factors.one_minus_beta1);
  const auto one_minus_beta2 = hn::Set(d, factors.one_minus_beta2);
  const auto keep = hn::Set(d, tensor_keep), rate = hn::Set(d, factors.rate);
  const auto inverse_root = hn::Set(d, factors.inverse_root);
  const auto epsilon = hn::Set(d, factors.epsilon);
  ForEachVector(begin, end, [&](int64_t i, auto access) PLAIT_INLINE_BODY {
    const auto g = hn::Mul(access.Load(d, gradient + i), gradient_scale);
    const auto m = hn::MulAdd(beta1, access.Load(d, first + i), hn::Mul(one_minus_beta1, g));
    const auto v =
        hn::MulAdd(beta2, access.Load(d, second + i), hn::Mul(hn::Mul(one_minus_beta2, g), g));
    const auto denominator = hn::MulAdd(hn::Sqrt(v), inverse_root, epsilon);
    const auto update = hn::Div(hn::Mul(rate, m), denominator);
    const auto p = hn::MulSub(access.Load(d, parameter + i), keep, update);
    access.Store(d, m, first + i);
    access.Store(d, v, second + i);
    access.Store(d, p, parameter + i);
    if (compute != nullptr) access.Store(d, p, compute + i);
  });
}

void AdamWAny(const AdamWUpdateArgs& args, int num_threads) {
  constexpr int64_t kGrain = 64;  // whole cache lines of every array
  const AdamWFactors factors(args);
  WithElementType(args.compute_dtype(), [&](auto copy) {
    using C = decltype(copy);
    ShareOut(
        args.tensors, num_threads, kGrain,
        [](const AdamWTensor& tensor) { return tensor.parameter.size; },
        [&](const AdamWTensor& tensor, int64_t begin, int64_t end) {
          const double keep = 1.0 - args.learning_rate * tensor.weight_decay;
          AdamWRange<C>(tensor, factors, static_cast<float>(keep), begin, end);
        });
  });
}

double SquareSum(const float* x, int64_t size) {
  const hn::ScalableTag<double> d;
  const hn::Rebind<float, decltype(d)> from;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  auto sum0 = hn::Zero(d), sum1 = hn::Zero(d), sum2 = hn::Zero(d), sum3 = hn::Zero(d);
  int64_t i = 0;
  for (; i + 4 * lanes <= size; i += 4 * lanes) {
    const auto x0 = hn::PromoteTo(d, hn::LoadU(from, x + i));
    const auto x1 = hn::PromoteTo(d, hn::LoadU(from, x + i + lanes));
    const auto x2 = hn::PromoteTo(d, hn::LoadU(from, x + i + 2 * lanes));
    const auto x3 = hn::PromoteTo(d, hn::LoadU(from, x + i + 3 * lanes));
    sum0 = hn::MulAdd(x0, x0, sum0);
    sum1 = hn::MulAdd(x1, x1, sum1);
    sum2 = hn::MulAdd(x2, x2, sum2);
    sum3 = hn::MulAdd(x3, x3, sum3);
  }
  const auto sums = hn::Add(hn::Add(sum0, sum1), hn::Add(sum2, sum3));
  double sum = hn::GetLane(hn::SumOfLanes(d, sums));
  for (; i < size; ++i) sum += static_cast<double>(x[i]) * static_cast<double>(x[i]);
  return sum;
}

void SquaredNormAny(const SquaredNormArgs& args, int num_threads) {
  constexpr int64_t kGrain = 8;  // sums of a cache line
  ShareOut(
      args.tensors, num_threads, kGrain,
      [](const SquaredNormTensor& tensor) { return tensor.tile_sums.size; },
      [](const SquaredNormTensor& tensor, int64_t begin, int64_t end) {
        for (int64_t tile = begin; tile < end; ++tile) {
          const int64_t first = tile * kSquaredNormTile;
          tensor.tile_sums.as<double>()[tile] = SquareSum(
              tensor.x.as<float>() + first, std::min(kSquaredNormTile, tensor.x.size - first));
        }
      });
}

// NOLINTNEXTLINE(google-readability-namespace-comments)
}  // namespace plait::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace plait::cpu {
namespace {

HWY_EXPORT(AdamWAny);
HWY_EXPORT(SquaredNormAny);

}  // namespace

std::string AcceptsAdamWUpdate(const AdamWUpdateArgs& args) {
  if (args.dtype() != DType::kF32) return "parameters are not f32";
  if (args.compute_dtype() == DType::kF64) return "compute is f64";
  return "";
}
std::string AcceptsSquaredNorm(const SquaredNormArgs& args) {
  return args.dtype() == DType::kF32 ? "" : "x is not f32";
}

absl::Status AdamWUpdate(Execution& execution, const AdamWUpdateArgs& args) {
  HWY_DYNAMIC_DISPATCH(AdamWAny)(args, execution.num_threads());
  return absl::OkStatus();
}

absl::Status SquaredNorm(Execution& execution, const SquaredNormArgs& args) {
  HWY_DYNAMIC_DISPATCH(SquaredNormAny)(args, execution.num_threads());
  return absl::OkStatus();
}

}  // namespace plait::cpu
#endif  // HWY_ONCE
