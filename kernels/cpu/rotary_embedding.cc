#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/rotary_embedding.cc"
#include "hwy/foreach_target.h"
// foreach_target first: it includes this file once per target.
#include <algorithm>
#include <bit>
#include <cmath>
#include <map>
#include <utility>
#include <vector>

#include "kernels/cpu/rotary_embedding.h"
#include "kernels/cpu/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace plait::cpu::HWY_NAMESPACE {

// Rotates the pairs (low[i], high[i]), i < half, by the angles whose cosines and sines are given.
template <class T>
void RotateHead(T* low, T* high, const float* cosines, const float* sines, float sign,
                int64_t half) {
  const F32Tag d;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  const auto direction = hn::Set(d, sign);
  int64_t i = 0;
  for (; i + lanes <= half; i += lanes) {
    const auto a = LoadF32(d, low + i), b = LoadF32(d, high + i);
    const auto cosine = hn::LoadU(d, cosines + i);
    const auto sine = hn::Mul(hn::LoadU(d, sines + i), direction);
    StoreF32(d, hn::NegMulAdd(b, sine, hn::Mul(a, cosine)), low + i);
    StoreF32(d, hn::MulAdd(a, sine, hn::Mul(b, cosine)), high + i);
  }
  if (i < half) {
    const auto count = static_cast<size_t>(half - i);
    const auto a = LoadF32N(d, low + i, count), b = LoadF32N(d, high + i, count);
    const auto cosine = LoadF32N(d, cosines + i, count);
    const auto sine = hn::Mul(LoadF32N(d, sines + i, count), direction);
    StoreF32N(d, hn::NegMulAdd(b, sine, hn::Mul(a, cosine)), low + i, count);
    StoreF32N(d, hn::MulAdd(a, sine, hn::Mul(b, cosine)), high + i, count);
  }
}

// table: [positions, head_dim], the cosines of a position and then its sines.
template <class T>
void RotateTokens(const RotaryEmbeddingArgs& args, const float* table, int num_threads) {
  const int64_t dim = args.head_dim, half = dim / 2;
  const float sign = args.direction == RotaryDirection::kForward ? 1.0f : -1.0f;
#pragma omp parallel for num_threads(num_threads) schedule(static)
  for (int64_t t = 0; t < args.x.rows; ++t) {
    const float* cosines = table + args.positions[t] * dim;
    for (int64_t h = 0; h < args.heads; ++h) {
      T* low = args.x.row<T>(t) + h * dim;
      RotateHead(low, low + half, cosines, cosines + half, sign, half);
    }
  }
}

void RotaryEmbeddingAny(const RotaryEmbeddingArgs& args, const float* table, int num_threads) {
  if (args.x.dtype == DType::kF32) return RotateTokens<float>(args, table, num_threads);
  RotateTokens<BFloat16>(args, table, num_threads);
}

// NOLINTNEXTLINE(google-readability-namespace-comments)
}  // namespace plait::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace plait::cpu {
namespace {

HWY_EXPORT(RotaryEmbeddingAny);

// Cosines and sines of every position met so far, per (head_dim, theta). Angles in double.
class RotaryTables {
 public:
  // [positions, head_dim], at least `positions` of them: cosines, then sines.
  const float* Get(int64_t head_dim, double theta, int64_t positions) {
    std::vector<float>& table = tables_[{head_dim, theta}];
    const int64_t known = static_cast<int64_t>(table.size()) / head_dim;
    if (positions <= known) return table.data();
    // Doubling, so that decoding does not extend the table at every token.
    const auto wanted = static_cast<int64_t>(std::bit_ceil(static_cast<uint64_t>(positions)));
    table.resize(static_cast<size_t>(wanted * head_dim));
    const int64_t half = head_dim / 2;
    for (int64_t j = 0; j < half; ++j) {
      const double frequency =
          std::pow(theta, -2.0 * static_cast<double>(j) / static_cast<double>(head_dim));
      for (int64_t position = known; position < wanted; ++position) {
        const double angle = static_cast<double>(position) * frequency;
        float* row = table.data() + position * head_dim;
        row[j] = static_cast<float>(std::cos(angle));
        row[half + j] = static_cast<float>(std::sin(angle));
      }
    }
    return table.data();
  }

 private:
  std::map<std::pair<int64_t, double>, std::vector<float>> tables_;
};

}  // namespace

std::string AcceptsRotaryEmbedding(const RotaryEmbeddingArgs& args) {
  return args.x.dtype == DType::kF64 ? "f64" : "";
}

absl::Status RotaryEmbedding(Execution& execution, const RotaryEmbeddingArgs& args) {
  if (args.x.rows == 0) return absl::OkStatus();
  const int64_t last = *std::max_element(args.positions, args.positions + args.x.rows);
  const float* table = execution.Cache<RotaryTables>().Get(args.head_dim, args.theta, last + 1);
  HWY_DYNAMIC_DISPATCH(RotaryEmbeddingAny)(args, table, execution.num_threads());
  return absl::OkStatus();
}

}  // namespace plait::cpu
#endif  // HWY_ONCE
