#include "recipes/pipeline_partition.h"

#include <algorithm>
#include <numeric>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/status_macros.h"
#include "recipes/parameter_count.h"
#include "recipes/recipe_defaults.h"
#include "recipes/schema/model.pb.h"

namespace plait {
namespace {

// Where each part begins when every part, from the last one on, takes blocks up to the bound and
// leaves one for each part before it; the first takes what is left. Its weight may exceed the
// bound, those of the others only by their one block.
std::vector<BlockRange> FillFromTheEnd(std::span<const int64_t> weights, int64_t head_weight,
                                       int64_t parts, int64_t bound) {
  std::vector<BlockRange> ranges(static_cast<size_t>(parts));
  auto end = static_cast<int64_t>(weights.size());
  for (int64_t part = parts - 1; part >= 0; --part) {
    int64_t begin = end - 1;
    int64_t weight = weights[begin] + (part == parts - 1 ? head_weight : 0);
    while (begin > part && (part == 0 || weight + weights[begin - 1] <= bound)) {
      weight += weights[--begin];
    }
    ranges[part] = {begin, end};
    end = begin;
  }
  return ranges;
}

int64_t LargestWeight(std::span<const int64_t> weights, int64_t head_weight,
                      std::span<const BlockRange> ranges) {
  int64_t largest = 0;
  for (const BlockRange& range : ranges) {
    const int64_t weight =
        std::accumulate(weights.begin() + range.begin, weights.begin() + range.end,
                        &range == &ranges.back() ? head_weight : int64_t{0});
    largest = std::max(largest, weight);
  }
  return largest;
}

}  // namespace

std::vector<BlockRange> BalancedBlockRanges(std::span<const int64_t> weights, int64_t head_weight,
                                            int64_t parts) {
  PLAIT_CHECK(parts >= 1 && parts <= static_cast<int64_t>(weights.size()));
  // The smallest bound that filling keeps.
  int64_t low = 0;
  int64_t high = std::accumulate(weights.begin(), weights.end(), head_weight);
  while (low < high) {
    const int64_t bound = low + (high - low) / 2;
    const std::vector<BlockRange> ranges = FillFromTheEnd(weights, head_weight, parts, bound);
    if (LargestWeight(weights, head_weight, ranges) <= bound) {
      high = bound;
    } else {
      low = bound + 1;
    }
  }
  return FillFromTheEnd(weights, head_weight, parts, low);
}

absl::StatusOr<std::vector<BlockRange>> PipelinePartition(const recipe::v1::Model& model,
                                                          int64_t parts) {
  const int64_t experts_per_token = ResolvedModel(model).experts().experts_per_token();
  PLAIT_ASSIGN_OR_RETURN(const std::vector<LogicalParameter> parameters, LogicalParameters(model));
  const int64_t blocks = parameters.back().block;
  if (parts < 1 || parts > blocks) {
    return absl::InvalidArgumentError(absl::StrCat("pipeline: expected 1 to ", blocks,
                                                   " parts, one block each or more, got ", parts));
  }
  std::vector<int64_t> weights(static_cast<size_t>(blocks) + 1, 0);  // the head's comes last
  for (const LogicalParameter& parameter : parameters) {
    if (parameter.block < 0) continue;
    weights[parameter.block] += parameter.MatmulElementsPerToken(experts_per_token);
  }
  const int64_t head_weight = weights.back();
  weights.pop_back();
  return BalancedBlockRanges(weights, head_weight, parts);
}

}  // namespace plait
