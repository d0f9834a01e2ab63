// NamedState: the whole contract between a checkpoint and what it saves: tensors by name with the
// part this rank holds, and small scalars. Loading writes into the same tensors, which share
// storage with their owner.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "base/tensor.h"
#include "parallel/shard_spec.h"

namespace plait {

struct NamedTensor {
  std::string name;  // "parameters/model.embed_tokens.weight",
                     // "adamw.first_moment/model.embed_tokens.weight"
  Tensor shard;
  ShardSpec spec;
  // Ranks that hold the same shard, and which of them this one is: each saves its part of it.
  int replica = 0;
  int replicas = 1;
};

struct NamedState {
  std::vector<NamedTensor> tensors;
  std::map<std::string, int64_t> integers;
  std::map<std::string, std::string> texts;
};

}  // namespace plait
