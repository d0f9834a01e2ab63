// What many ranks cost: the same training steps with the ranks' memory shared, by messages, with
// the canonical reduction, and without any communication, taken in turns in one run.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "parallel/communicator.h"

namespace plait {

namespace recipe::v1 {
class Recipe;
}

struct RankBenchmarkOptions {
  int stage = 0;
  int64_t warmup_rounds = 1;
  int64_t rounds = 7;
};

struct RankBenchmarkResult {
  struct Way {
    std::string name;
    std::vector<double> step_seconds;  // of the slowest rank, round by round
    double median_seconds = 0;
    // Of the steps' time, spent waiting for other ranks; mean over ranks.
    double waiting_share = 0;
    int64_t bytes_moved = 0;  // to one rank in a step
  };
  int ranks = 1;
  int threads = 0;  // per rank
  // "alone" first: every rank computes its microbatches by itself and updates its part of the
  // parameters; then "shared" (absent where ranks are on several hosts), "messages", "canonical"
  // (absent with an expert axis).
  std::vector<Way> ways;
};

// InvalidArgument for one rank, or a stage that the recipe does not have.
absl::Status CheckRankBenchmark(const recipe::v1::Recipe& recipe, int ranks,
                                const RankBenchmarkOptions& options);

// Collective. recipe: resolved and valid for the world, and checked.
absl::StatusOr<RankBenchmarkResult> BenchmarkRanks(const recipe::v1::Recipe& recipe,
                                                   const std::shared_ptr<Communicator>& world,
                                                   const RankBenchmarkOptions& options);

}  // namespace plait
