#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/token_cross_entropy.cc"
#include "hwy/foreach_target.h"
// foreach_target first: it includes this file once per target.
#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/cpu/simd-inl.h"
#include "kernels/cpu/token_cross_entropy.h"

HWY_BEFORE_NAMESPACE();
namespace plait::cpu::HWY_NAMESPACE {

constexpr float kMinusInfinity = -std::numeric_limits<float>::infinity();

// log_sum_exp = largest + log sum. One that is given stands as a largest logit whose sum is 1.
struct LogitStatistics {
  float largest;  // max_v logits[v]
  float sum;      // sum_v exp(logits[v] - largest)
};

// One read of the row from memory: a tile at a time, which its second pass finds in the nearest
// cache; the sum so far is rescaled where a tile raises the maximum.
template <class L>
LogitStatistics Statistics(const L* logits, int64_t vocabulary) {
  constexpr int64_t kTile = 2048;
  const F32Tag d;
  LogitStatistics row = {kMinusInfinity, 0.0f};
  for (int64_t begin = 0; begin < vocabulary; begin += kTile) {
    const int64_t end = std::min(begin + kTile, vocabulary);
    auto maxima = hn::Set(d, kMinusInfinity);
    ForEachVector(begin, end, [&](int64_t i, auto access) PLAIT_INLINE_BODY {
      maxima = hn::Max(maxima, access.Load(d, logits + i, kMinusInfinity));
    });
    const float largest = std::max(row.largest, hn::GetLane(hn::MaxOfLanes(d, maxima)));
    if (largest != row.largest) row.sum *= std::exp(row.largest - largest);
    row.largest = largest;
    // While all are -infinity, whose distance from itself is no number, any shift gives zeros.
    const auto shift = hn::Set(d, largest == kMinusInfinity ? 0.0f : largest);
    auto sums = hn::Zero(d);
    ForEachVector(begin, end, [&](int64_t i, auto access) PLAIT_INLINE_BODY {
      sums = hn::Add(sums, Exp(d, hn::Sub(access.Load(d, logits + i, kMinusInfinity), shift)));
    });
    row.sum += hn::GetLane(hn::SumOfLanes(d, sums));
  }
  return row;
}

// L, G: element types of logits and dlogits. dlogits may lie in logits: an element is written after
// it is read.
template <class L, class G>
void Row(const TokenCrossEntropyArgs& args, int64_t t) {
  const F32Tag d;
  const int64_t vocabulary = args.logits.columns;
  const L* logits = args.logits.row<L>(t);
  const float coefficient = args.coefficient ? args.coefficient.as<float>()[t] : 0.0f;
  const int32_t target = args.targets[t];
  const bool has_target = target >= 0 && target < vocabulary;
  const float target_logit = has_target ? static_cast<float>(logits[target]) : 0.0f;
  if (args.target_logit) args.target_logit.as<float>()[t] = target_logit;
  float log_probability = 0;
  LogitStatistics row = {};
  if (coefficient != 0 || args.log_probability || args.log_sum_exp) {
    row = args.given_log_sum_exp ? LogitStatistics{args.given_log_sum_exp.as<float>()[t], 1.0f}
                                 : Statistics(logits, vocabulary);
    const float log_sum = std::log(row.sum);
    if (has_target) log_probability = target_logit - row.largest - log_sum;
    if (args.log_probability) args.log_probability.as<float>()[t] = log_probability;
    if (args.log_sum_exp) args.log_sum_exp.as<float>()[t] = row.largest + log_sum;
  }
  if (!args.coefficient) return;
  G* dlogits = args.dlogits.row<G>(t);
  if (coefficient == 0) {
    std::fill_n(dlogits, vocabulary, G(0.0f));
    return;
  }
  const auto largest = hn::Set(d, row.largest), scale = hn::Set(d, -coefficient / row.sum);
  ForEachVector(0, vocabulary, [&](int64_t i, auto access) PLAIT_INLINE_BODY {
    const auto power = Exp(d, hn::Sub(access.Load(d, logits + i), largest));
    access.Store(d, hn::Mul(power, scale), dlogits + i);
  });
  // 1 - probability, without cancellation where the probability is near 1.
  if (has_target) dlogits[target] = G(-coefficient * std::expm1(log_probability));
}

void RowsAny(const TokenCrossEntropyArgs& args, int num_threads) {
  WithElementType(args.logits.dtype, [&](auto logit) {
    WithElementType(args.dlogits ? args.dlogits.dtype : DType::kF32, [&](auto gradient) {
      using L = decltype(logit);
      using G = decltype(gradient);
#pragma omp parallel for num_threads(num_threads) schedule(static)
      for (int64_t t = 0; t < args.logits.rows; ++t) Row<L, G>(args, t);
    });
  });
}

// NOLINTNEXTLINE(google-readability-namespace-comments)
}  // namespace plait::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace plait::cpu {
namespace {

HWY_EXPORT(RowsAny);

}  // namespace

std::string AcceptsTokenCrossEntropy(const TokenCrossEntropyArgs& args) {
  if (args.logits.dtype == DType::kF64) return "f64";
  if (args.dlogits && args.dlogits.dtype == DType::kF64) return "dlogits is f64";
  for (const ConstVectorView& vector :
       {ConstVectorView(args.log_probability), ConstVectorView(args.log_sum_exp),
        ConstVectorView(args.target_logit), args.given_log_sum_exp, args.coefficient}) {
    if (vector && vector.dtype != DType::kF32) return "a per-row vector is not f32";
  }
  return "";
}

absl::Status TokenCrossEntropy(Execution& execution, const TokenCrossEntropyArgs& args) {
  HWY_DYNAMIC_DISPATCH(RowsAny)(args, execution.num_threads());
  return absl::OkStatus();
}

}  // namespace plait::cpu
#endif  // HWY_ONCE
