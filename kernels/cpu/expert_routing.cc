#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/expert_routing.cc"
#include "hwy/foreach_target.h"
// foreach_target first: it includes this file once per target.
#include <algorithm>
#include <cmath>
#include <initializer_list>
#include <limits>

#include "kernels/cpu/expert_routing.h"
#include "kernels/cpu/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace plait::cpu::HWY_NAMESPACE {

// Runs body(i, count) over [0, size) in steps of a vector; count < Lanes(d) in the last one only.
template <class Body>
HWY_INLINE void ForEachVector(int64_t size, const Body& body) {
  const auto lanes = static_cast<int64_t>(hn::Lanes(F32Tag()));
  for (int64_t i = 0; i < size; i += lanes) {
    body(i, static_cast<size_t>(std::min(lanes, size - i)));
  }
}

template <class T>
HWY_INLINE F32 LoadSome(const T* from, size_t count) {
  const F32Tag d;
  return count == hn::Lanes(d) ? LoadF32(d, from) : LoadF32N(d, from, count);
}
template <class T>
HWY_INLINE void StoreSome(F32 value, T* to, size_t count) {
  const F32Tag d;
  if (count == hn::Lanes(d)) {
    StoreF32(d, value, to);
  } else {
    StoreF32N(d, value, to, count);
  }
}

void RouterForwardRow(const RouterForwardArgs& args, int64_t t) {
  const F32Tag d;
  const int64_t experts = args.logits.columns, chosen = args.experts_per_token;
  const float* logits = args.logits.row<float>(t);
  float* probabilities = args.probabilities.row<float>(t);
  const auto lowest = hn::Set(d, -std::numeric_limits<float>::infinity());
  // Lanes past the last expert count as -infinity: probability 0.
  const auto load = [&](int64_t e, size_t count) {
    return hn::IfThenElse(hn::FirstN(d, count), LoadSome(logits + e, count), lowest);
  };
  auto largest_lanes = lowest;
  ForEachVector(experts, [&](int64_t e, size_t count) {
    largest_lanes = hn::Max(largest_lanes, load(e, count));
  });
  const auto largest = hn::MaxOfLanes(d, largest_lanes);
  auto sums = hn::Zero(d);
  ForEachVector(experts, [&](int64_t e, size_t count) {
    const auto power = Exp(d, hn::Sub(load(e, count), largest));
    sums = hn::Add(sums, hn::IfThenElseZero(hn::FirstN(d, count), power));
    StoreSome(power, probabilities + e, count);
  });
  const auto sum = hn::SumOfLanes(d, sums);
  ForEachVector(experts, [&](int64_t e, size_t count) {
    StoreSome(hn::Div(LoadSome(probabilities + e, count), sum), probabilities + e, count);
  });
  args.log_sum_exp.as<float>()[t] = hn::GetLane(largest) + std::log(hn::GetLane(sum));

  int32_t* choices = args.choices + t * chosen;
  float* weights = args.weights.row<float>(t);
  for (int64_t j = 0; j < chosen; ++j) {
    int64_t best = -1;
    for (int64_t e = 0; e < experts; ++e) {
      // The first expert left starts, so that a choice is valid even among NaNs.
      if (best >= 0 && !(logits[e] > logits[best])) continue;
      if (std::find(choices, choices + j, static_cast<int32_t>(e)) == choices + j) best = e;
    }
    choices[j] = static_cast<int32_t>(best);
    weights[j] = probabilities[best];
  }
}

void RouterForwardRows(const RouterForwardArgs& args, int num_threads) {
#pragma omp parallel for num_threads(num_threads) schedule(static)
  for (int64_t t = 0; t < args.logits.rows; ++t) RouterForwardRow(args, t);
}

void RouterBackwardRow(const RouterBackwardArgs& args, int64_t t) {
  const F32Tag d;
  const int64_t experts = args.probabilities.columns, chosen = args.dweights.columns;
  const float* probabilities = args.probabilities.row<float>(t);
  const float* dweights = args.dweights.row<float>(t);
  float* dlogits = args.dlogits.row<float>(t);  // holds dp first
  const float real = args.real.as<float>()[t];
  ForEachVector(experts, [&](int64_t e, size_t count) {
    const auto balance = args.balance_gradient
                             ? LoadSome(args.balance_gradient.as<float>() + e, count)
                             : hn::Zero(d);
    StoreSome(hn::Mul(balance, hn::Set(d, real)), dlogits + e, count);
  });
  for (int64_t j = 0; j < chosen; ++j) dlogits[args.choices[t * chosen + j]] += dweights[j];
  auto sums = hn::Zero(d);
  ForEachVector(experts, [&](int64_t e, size_t count) {
    sums = hn::MulAdd(LoadSome(probabilities + e, count), LoadSome(dlogits + e, count), sums);
  });
  const auto mean = hn::SumOfLanes(d, sums);
  const auto z = hn::Set(
      d, real * 2 * static_cast<float>(args.z_coefficient) * args.log_sum_exp.as<float>()[t]);
  ForEachVector(experts, [&](int64_t e, size_t count) {
    const auto bracket = hn::Add(hn::Sub(LoadSome(dlogits + e, count), mean), z);
    StoreSome(hn::Mul(LoadSome(probabilities + e, count), bracket), dlogits + e, count);
  });
}

void RouterBackwardRows(const RouterBackwardArgs& args, int num_threads) {
#pragma omp parallel for num_threads(num_threads) schedule(static)
  for (int64_t t = 0; t < args.probabilities.rows; ++t) RouterBackwardRow(args, t);
}

template <class T>
void Combine(const CombineRowsArgs& args, int num_threads) {
  const int64_t chosen = args.experts_per_token;
#pragma omp parallel for num_threads(num_threads) schedule(static)
  for (int64_t t = 0; t < args.out.rows; ++t) {
    const int32_t* rows = args.token_row + t * chosen;
    T* out = args.out.row<T>(t);
    ForEachVector(args.out.columns, [&](int64_t i, size_t count) {
      auto sum = LoadSome(args.rows.row<T>(rows[0] - args.first_row) + i, count);
      for (int64_t j = 1; j < chosen; ++j) {
        sum = hn::Add(sum, LoadSome(args.rows.row<T>(rows[j] - args.first_row) + i, count));
      }
      StoreSome(sum, out + i, count);
    });
  }
}

void CombineAny(const CombineRowsArgs& args, int num_threads) {
  if (args.out.dtype == DType::kF32) return Combine<float>(args, num_threads);
  Combine<BFloat16>(args, num_threads);
}

// NOLINTNEXTLINE(google-readability-namespace-comments)
}  // namespace plait::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace plait::cpu {
namespace {

HWY_EXPORT(RouterForwardRows);
HWY_EXPORT(RouterBackwardRows);
HWY_EXPORT(CombineAny);

std::string RefusesOtherThanF32(std::initializer_list<DType> dtypes) {
  for (const DType dtype : dtypes) {
    if (dtype != DType::kF32) return Name(dtype);
  }
  return "";
}

}  // namespace

std::string AcceptsRouterForward(const RouterForwardArgs& args) {
  return RefusesOtherThanF32(
      {args.logits.dtype, args.probabilities.dtype, args.weights.dtype, args.log_sum_exp.dtype});
}
std::string AcceptsRouterBackward(const RouterBackwardArgs& args) {
  return RefusesOtherThanF32({args.probabilities.dtype, args.dweights.dtype, args.real.dtype,
                              args.log_sum_exp.dtype, args.dlogits.dtype,
                              args.balance_gradient ? args.balance_gradient.dtype : DType::kF32});
}
std::string AcceptsCombineRows(const CombineRowsArgs& args) {
  if (args.rows.dtype != args.out.dtype) return "rows and out differ in dtype";
  if (args.out.dtype != DType::kF32 && args.out.dtype != DType::kBf16) return Name(args.out.dtype);
  return "";
}

absl::Status RouterForward(Execution& execution, const RouterForwardArgs& args) {
  HWY_DYNAMIC_DISPATCH(RouterForwardRows)(args, execution.num_threads());
  return absl::OkStatus();
}

absl::Status RouterBackward(Execution& execution, const RouterBackwardArgs& args) {
  HWY_DYNAMIC_DISPATCH(RouterBackwardRows)(args, execution.num_threads());
  return absl::OkStatus();
}

absl::Status CombineRows(Execution& execution, const CombineRowsArgs& args) {
  HWY_DYNAMIC_DISPATCH(CombineAny)(args, execution.num_threads());
  return absl::OkStatus();
}

// Each chunk of pairs counts its experts; the counts become the chunk's first row of every expert;
// then each chunk places its pairs in order. The order is that of one chunk, whatever their number.
absl::Status ExpertPermutation(Execution& execution, const ExpertPermutationArgs& args) {
  const int64_t rows = args.tokens * args.experts_per_token;
  const int64_t chunks = execution.num_threads();
  const int64_t chunk_rows = (rows + chunks - 1) / chunks;
  const std::shared_ptr<void> block =
      execution.allocator().Allocate(static_cast<size_t>(chunks * args.experts) * sizeof(int32_t));
  auto* next = static_cast<int32_t*>(block.get());  // [chunks, experts]
  std::fill(next, next + chunks * args.experts, 0);
#pragma omp parallel for num_threads(execution.num_threads()) schedule(static, 1)
  for (int64_t chunk = 0; chunk < chunks; ++chunk) {
    const int64_t end = std::min(rows, (chunk + 1) * chunk_rows);
    int32_t* counts = next + chunk * args.experts;
    for (int64_t i = chunk * chunk_rows; i < end; ++i) ++counts[args.choices[i]];
  }
  int32_t row = 0;
  for (int64_t e = 0; e < args.experts; ++e) {
    args.offsets[e] = row;
    for (int64_t chunk = 0; chunk < chunks; ++chunk) {
      int32_t& first = next[chunk * args.experts + e];
      const int32_t count = first;
      first = row;
      row += count;
    }
  }
  args.offsets[args.experts] = row;
#pragma omp parallel for num_threads(execution.num_threads()) schedule(static, 1)
  for (int64_t chunk = 0; chunk < chunks; ++chunk) {
    const int64_t end = std::min(rows, (chunk + 1) * chunk_rows);
    int32_t* first = next + chunk * args.experts;
    for (int64_t i = chunk * chunk_rows; i < end; ++i) {
      const int32_t to = first[args.choices[i]]++;
      args.row_token[to] = args.first_token + static_cast<int32_t>(i / args.experts_per_token);
      args.token_row[i] = args.first_row + to;
    }
  }
  return absl::OkStatus();
}

}  // namespace plait::cpu
#endif  // HWY_ONCE
