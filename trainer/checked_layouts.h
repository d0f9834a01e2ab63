// What `plait selftest` trains one step of, and on which layouts: three tiny models that have every
// kind of block and loss, and whose sizes every axis divides, and a table of layouts of up to eight
// ranks, alone and mixed.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "base/dtype.h"
#include "base/execution.h"
#include "data/batch.h"

namespace plait {

namespace recipe::v1 {
class Recipe;
}

enum class CheckedModel {
  kJamba,      // attention and Mamba, dense and expert feed-forward, grouped key-value heads
  kTiedJamba,  // one embedding for both ends, other biases, activation losses on every site
  kLlama,      // rotary embedding, dense feed-forward
};

std::string_view Name(CheckedModel model);

struct CheckedLayout {
  struct Sizes {
    int pipeline = 1;
    int replicate = 1;
    int shard = 1;
    int context = 1;
    int tensor = 1;
    int expert = 1;
  };

  Sizes sizes;
  // What else the layout's recipe sets ("parallel.transport=MESSAGES"), and how a table calls it.
  std::string variant = {};
  std::vector<std::string> settings = {};
  std::vector<CheckedModel> models = {CheckedModel::kJamba, CheckedModel::kLlama};

  int ranks() const;
  int data_parallel() const { return sizes.replicate * sizes.shard; }
  // "shard 2 x tensor 2, expert 2, messages"
  std::string name() const;
  // Largest relative difference from one rank, over the norm of a tensor. Along replicate, shard
  // and pipeline only sums over microbatches change their order; other axes cut the sums inside a
  // microbatch.
  double bound(DType precision) const;
  // At bf16: the square of what its roundings may do over that of one rank's
  // (rounding_reference.h); 0 where both round alike.
  double rounding_variance() const;
};

// What each of the ranks that are threads of a process computes on, by its number.
using DeviceOfRank = std::function<absl::StatusOr<ExecutionOptions>(int rank)>;
inline absl::StatusOr<ExecutionOptions> OneThread(int /*rank*/) {
  return ExecutionOptions{.num_threads = 1};
}

// Every layout, those of few ranks first.
const std::vector<CheckedLayout>& CheckedLayouts();

// Microbatches of a step; a multiple of the layout's data-parallel size.
int NumCheckedLeaves(const CheckedLayout& layout);
// Microbatch i of the step on one rank, and of every layout: packed documents, some longer than a
// context rank's segment, some of one token; prompts without weight; padding that may be all that a
// context rank has.
Batch CheckedLeaf(int i);

// Resolved, at bf16, f32 or f64. InvalidArgument with every rule that the layout breaks.
absl::StatusOr<recipe::v1::Recipe> CheckedRecipe(CheckedModel model, DType precision,
                                                 const CheckedLayout& layout);

}  // namespace plait
