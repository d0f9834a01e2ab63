// ExpertSchedule: in which waves the rows of a microbatch go to the ranks of their experts, decided
// from the whole load matrix, which every rank has, so that all decide alike.
//
// A microbatch is cut into slices of a few tokens of every rank; a wave is a run of slices that
// brings no rank more rows than a balanced load of wave_tokens tokens would, wave_tokens x
// experts_per_token. A slice is short enough that even if all of its rows went to one rank it would
// fit. So the memory of a wave does not depend on the routing: overload makes more waves, not
// larger ones, and a balanced load makes few (fixed waves of so many tokens would have to be small
// enough for the worst case, and then cost every balanced step the small products).
//
// Waves whose rows add up to at most kKeptOverBalanced times a balanced load on the most loaded
// rank are kept for the backward; what is beyond goes there once more and is recomputed.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "base/dtype.h"

namespace plait {

struct ExpertSizes {
  int64_t tokens = 0;  // of each rank, the same on all
  int64_t ranks = 1;
  int64_t experts = 0;  // over all ranks, a multiple of them
  int64_t experts_per_token = 0;
  // Of each rank; 0: a third of the tokens, but enough for kRowsWorthAWave rows per expert.
  int64_t wave_tokens = 0;
};

class ExpertSchedule {
 public:
  static constexpr int64_t kKeptOverBalanced = 2;
  // Fewer make a product slower than the exchange it hides is long.
  static constexpr int64_t kRowsWorthAWave = 256;

  struct Wave {
    int64_t begin = 0, end = 0;  // tokens of every rank
    bool kept = true;            // for the backward; else to be dispatched and computed again
    std::vector<int32_t> rows;   // [ranks x experts], from each rank for each expert
  };

  // wave_tokens with its default; where tokens are few, up to all of an overload that is kept.
  static int64_t WaveTokens(const ExpertSizes& sizes);
  static int64_t SliceTokens(const ExpertSizes& sizes);
  static int64_t NumSlices(const ExpertSizes& sizes);
  // The most rows that a wave brings to one rank, whatever the routing; and the most that are kept.
  static int64_t MostWaveRows(const ExpertSizes& sizes);
  static int64_t MostKeptRows(const ExpertSizes& sizes);

  // loads: [ranks x slices x experts], rows from each rank's tokens of a slice for each expert.
  ExpertSchedule(const ExpertSizes& sizes, std::span<const int32_t> loads);

  const ExpertSizes& sizes() const { return sizes_; }
  const std::vector<Wave>& waves() const { return waves_; }
  int64_t num_recomputed() const;
  // Rows of the most loaded rank over the mean of all.
  double largest_over_mean() const;

 private:
  ExpertSizes sizes_;
  std::vector<Wave> waves_;
};

// What the experts of one layer allocate on a rank for rows that travel: blocks as the allocator
// rounds them, without the scratch of products and what the layer keeps of its own tokens.
struct ExpertMemory {
  int64_t kept_bytes = 0;     // between forward and backward, per layer and microbatch
  int64_t working_bytes = 0;  // while a layer runs, beside what is kept
};
// The most, whatever the routing. dtype: of activations. Zero on one rank, where no row travels.
ExpertMemory MostExpertMemory(const ExpertSizes& sizes, int64_t model_dim, int64_t hidden_dim,
                              DType dtype);
// Where every rank gets as many rows.
ExpertMemory BalancedExpertMemory(const ExpertSizes& sizes, int64_t model_dim, int64_t hidden_dim,
                                  DType dtype);

// A row on its way between ranks: `columns` elements, and its router weight (f32, or f64 beside
// f64) in as many elements of the same dtype as it takes.
int64_t ElementsOfWeight(DType dtype);

}  // namespace plait
