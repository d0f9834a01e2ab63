// Which elements two shards of one logical tensor share, as contiguous copies from one to the
// other. A shard is a list of runs of the logical tensor, in row-major order: its box cut along its
// rows, clipped to its range of elements. Both lists ascend, so one pass over them finds all
// copies.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "parallel/shard_spec.h"

namespace plait {

// Elements [logical, logical + length) of the tensor are [shard, shard + length) of the shard.
struct ShardRun {
  int64_t logical = 0;
  int64_t shard = 0;
  int64_t length = 0;
  friend bool operator==(const ShardRun&, const ShardRun&) = default;
};

struct ShardCopy {
  int64_t source = 0;       // offset in the stored shard, elements
  int64_t destination = 0;  // offset in the wanted one
  int64_t length = 0;
  friend bool operator==(const ShardCopy&, const ShardCopy&) = default;
};

// Ranges ascend, are disjoint and lie in the tensor; elements lie in the box. What the functions
// below ask for.
bool IsConsistent(const ShardSpec& spec);

// Longest runs, ascending; none for an empty shard. A box that cuts only dim 0 has one per segment.
std::vector<ShardRun> RunsOf(const ShardSpec& spec);

// Of lists of one logical shape, ascending. Empty where they share nothing.
std::vector<ShardCopy> OverlapOf(std::span<const ShardRun> stored,
                                 std::span<const ShardRun> wanted);

}  // namespace plait
