// First values of parameters. Every element is a function of (seed, logical name, element), so that
// it does not depend on the layout. Sources: the Jamba and Llama references (normal, zero, one,
// log(n + 1)); Gu and Dao, "Mamba", 2023 (dt).
#pragma once

#include <cstdint>

#include "absl/status/status.h"
#include "base/execution.h"
#include "base/tensor.h"
#include "parallel/parameter.h"

namespace plait {

struct Initialization {
  enum class Kind {
    kConstant,       // value
    kNormal,         // standard deviation `value`
    kUniform,        // in [-value, value)
    kLogStateIndex,  // A_log[c, n] = log(n + 1)
    kDtBias,         // softplus^-1(dt), dt log-uniform in [1e-3, 1e-1]
  };
  Kind kind = Kind::kConstant;
  double value = 0;
};

// A parameter with the way it starts; layers own these.
struct LayerParameter {
  Parameter parameter;
  Initialization initialization;
};

// Writes the shard's masters.
absl::Status InitializeMaster(Execution& execution, ShardedParameter& parameter,
                              const Initialization& initialization, uint64_t seed);

}  // namespace plait
