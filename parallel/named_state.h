// NamedState: the whole contract between a checkpoint and what it saves: tensors by name with the
// part this rank holds, and small scalars. Loading writes into the same tensors, which share
// storage with their owner.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/execution.h"
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

// The same state with copies on the host of the tensors that are on a device: what files are
// written from and read into.
absl::StatusOr<NamedState> OnHost(Execution& execution, const NamedState& state);
// Copies the tensors of `host`, which OnHost made of `state`, back into those of `state`.
absl::Status CopyFromHost(Execution& execution, const NamedState& host, NamedState& state);

}  // namespace plait
