#include "parallel/expert_schedule.h"

#include <algorithm>

#include "base/check.h"

namespace plait {
namespace {

// Slices per wave where ranks are few: the finer, the more evenly waves are cut.
constexpr int64_t kSlicesPerWave = 8;

int64_t CeilDivide(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Rows that one token of every rank brings a rank at most.
int64_t MostRowsPerToken(const ExpertSizes& sizes) {
  return sizes.ranks * std::min(sizes.experts_per_token, sizes.experts / sizes.ranks);
}

// First slices of the waves that bring no rank more than `limit` rows; a slice beyond it is a wave
// of its own. rank_rows: [slices x ranks].
std::vector<int64_t> FirstSlices(std::span<const int64_t> rank_rows, int64_t ranks, int64_t limit) {
  std::vector<int64_t> first, wave(static_cast<size_t>(ranks));
  const auto slices = static_cast<int64_t>(rank_rows.size()) / ranks;
  for (int64_t s = 0; s < slices; ++s) {
    const auto slice =
        rank_rows.subspan(static_cast<size_t>(s * ranks), static_cast<size_t>(ranks));
    bool fits = s > 0;
    for (size_t r = 0; r < slice.size(); ++r) fits = fits && wave[r] + slice[r] <= limit;
    if (!fits) {
      first.push_back(s);
      std::ranges::fill(wave, 0);
    }
    for (size_t r = 0; r < slice.size(); ++r) wave[r] += slice[r];
  }
  return first;
}

// The same number of waves as `limit` gives, but with the smallest largest one.
std::vector<int64_t> EvenFirstSlices(std::span<const int64_t> rank_rows, int64_t ranks,
                                     int64_t limit) {
  const size_t waves = FirstSlices(rank_rows, ranks, limit).size();
  int64_t least = 0;
  while (least < limit) {
    const int64_t middle = (least + limit) / 2;
    if (FirstSlices(rank_rows, ranks, middle).size() <= waves) {
      limit = middle;
    } else {
      least = middle + 1;
    }
  }
  return FirstSlices(rank_rows, ranks, limit);
}

}  // namespace

int64_t ExpertSchedule::WaveTokens(const ExpertSizes& sizes) {
  const int64_t worth = CeilDivide(kRowsWorthAWave * sizes.experts,
                                   sizes.ranks * std::max<int64_t>(1, sizes.experts_per_token));
  const int64_t chosen =
      sizes.wave_tokens > 0 ? sizes.wave_tokens : std::max(CeilDivide(sizes.tokens, 3), worth);
  return std::max<int64_t>(1, std::min(chosen, kKeptOverBalanced * sizes.tokens));
}

int64_t ExpertSchedule::SliceTokens(const ExpertSizes& sizes) {
  return std::max<int64_t>(1, WaveTokens(sizes) / std::max(sizes.ranks, kSlicesPerWave));
}

int64_t ExpertSchedule::NumSlices(const ExpertSizes& sizes) {
  return CeilDivide(sizes.tokens, SliceTokens(sizes));
}

int64_t ExpertSchedule::MostWaveRows(const ExpertSizes& sizes) {
  return std::max(WaveTokens(sizes) * sizes.experts_per_token,
                  SliceTokens(sizes) * MostRowsPerToken(sizes));
}

int64_t ExpertSchedule::MostKeptRows(const ExpertSizes& sizes) {
  return std::min(kKeptOverBalanced * sizes.tokens * sizes.experts_per_token,
                  sizes.tokens * MostRowsPerToken(sizes));
}

ExpertSchedule::ExpertSchedule(const ExpertSizes& sizes, std::span<const int32_t> loads)
    : sizes_(sizes) {
  const int64_t ranks = sizes.ranks, experts = sizes.experts, own = experts / ranks;
  const int64_t slices = NumSlices(sizes), slice_tokens = SliceTokens(sizes);
  PLAIT_CHECK_EQ(static_cast<int64_t>(loads.size()), ranks * slices * experts);
  std::vector<int64_t> rank_rows(static_cast<size_t>(slices * ranks));
  for (int64_t from = 0; from < ranks; ++from) {
    for (int64_t s = 0; s < slices; ++s) {
      for (int64_t e = 0; e < experts; ++e) {
        rank_rows[static_cast<size_t>(s * ranks + e / own)] +=
            loads[static_cast<size_t>((from * slices + s) * experts + e)];
      }
    }
  }
  std::vector<int64_t> first =
      EvenFirstSlices(rank_rows, ranks, WaveTokens(sizes) * sizes.experts_per_token);
  first.push_back(slices);
  std::vector<int64_t> total(static_cast<size_t>(ranks));
  for (size_t w = 0; w + 1 < first.size(); ++w) {
    Wave wave{.begin = first[w] * slice_tokens,
              .end = std::min(first[w + 1] * slice_tokens, sizes.tokens),
              .rows = std::vector<int32_t>(static_cast<size_t>(ranks * experts))};
    for (int64_t from = 0; from < ranks; ++from) {
      for (int64_t s = first[w]; s < first[w + 1]; ++s) {
        for (int64_t e = 0; e < experts; ++e) {
          const int32_t rows = loads[static_cast<size_t>((from * slices + s) * experts + e)];
          wave.rows[static_cast<size_t>(from * experts + e)] += rows;
          total[static_cast<size_t>(e / own)] += rows;
        }
      }
    }
    wave.kept = *std::ranges::max_element(total) <= MostKeptRows(sizes);
    waves_.push_back(std::move(wave));
  }
}

int64_t ExpertSchedule::num_recomputed() const {
  return std::ranges::count(waves_, false, &Wave::kept);
}

double ExpertSchedule::largest_over_mean() const {
  const int64_t own = sizes_.experts / sizes_.ranks;
  std::vector<int64_t> total(static_cast<size_t>(sizes_.ranks));
  for (const Wave& wave : waves_) {
    for (size_t i = 0; i < wave.rows.size(); ++i) {
      total[i % static_cast<size_t>(sizes_.experts) / static_cast<size_t>(own)] += wave.rows[i];
    }
  }
  const auto mean = static_cast<double>(sizes_.tokens * sizes_.experts_per_token);
  return mean > 0 ? static_cast<double>(*std::ranges::max_element(total)) / mean : 1;
}

namespace {

enum class Recomputed { kNone, kSome };

// As model/dealt_experts.cc allocates, in elements a row. P: a row with its weight; d, h: dims.
//   kept               P + 2 h: arrived rows, gate and up
//   forward            in flight 2 P | experts: arrived P, gate and up 2 h (both kept, else beside
//                      it), activated h, results d | on the way back 2 d
//   backward, kept     in flight 2 d | gradients d, dgate_up 2 h, activated h | on the way back 2 P
//   backward, again    in flight 2 (P + d) | arrived P + d, gradients d, gate and up 2 h, dgate_up
//                      2 h, activated h | on the way back 2 P
ExpertMemory MemoryOf(int64_t wave_rows, int64_t kept_rows, Recomputed recomputed,
                      int64_t model_dim, int64_t hidden_dim, DType dtype) {
  const int64_t d = model_dim, h = hidden_dim, p = d + ElementsOfWeight(dtype);
  int64_t elements = std::max(2 * p + 3 * d + h, 3 * d + 3 * h + 2 * p);
  if (recomputed == Recomputed::kSome) {
    elements = std::max(3 * p + 3 * d + 3 * h, 5 * p + 4 * d + 5 * h);
  }
  const auto size = static_cast<int64_t>(SizeOf(dtype));
  const auto weight = static_cast<int64_t>(SizeOf(StatisticsDType(dtype)));
  // Weights and their gradients, scales; two plans and the places of combined rows.
  const int64_t row_bytes = elements * size + 3 * weight + 5 * int64_t{4};
  const auto as_allocated = [](int64_t bytes) { return bytes + bytes / 8 + 2048; };
  return {.kept_bytes = as_allocated(kept_rows * (p + 2 * h) * size),
          .working_bytes = as_allocated(wave_rows * row_bytes)};
}

}  // namespace

ExpertMemory MostExpertMemory(const ExpertSizes& sizes, int64_t model_dim, int64_t hidden_dim,
                              DType dtype) {
  if (sizes.ranks == 1) return {};
  const int64_t kept = ExpertSchedule::MostKeptRows(sizes);
  const bool all_kept = kept == sizes.tokens * MostRowsPerToken(sizes);
  return MemoryOf(ExpertSchedule::MostWaveRows(sizes), kept,
                  all_kept ? Recomputed::kNone : Recomputed::kSome, model_dim, hidden_dim, dtype);
}

ExpertMemory BalancedExpertMemory(const ExpertSizes& sizes, int64_t model_dim, int64_t hidden_dim,
                                  DType dtype) {
  if (sizes.ranks == 1) return {};
  const int64_t rows = sizes.tokens * sizes.experts_per_token;
  const int64_t waves = CeilDivide(sizes.tokens, ExpertSchedule::WaveTokens(sizes));
  return MemoryOf(CeilDivide(rows, waves), rows, Recomputed::kNone, model_dim, hidden_dim, dtype);
}

int64_t ElementsOfWeight(DType dtype) { return dtype == DType::kBf16 ? 2 : 1; }

}  // namespace plait
