// ParameterSharder (ZeRO-3 / FSDP): owns the memory of every parameter. A unit is a list of
// parameters that are gathered and reduced together (one mixer or feed-forward, the embedding, the
// head). A unit's parameters lie in flat sections keyed by dtype: values, gradients and masters are
// views of them, so nothing is copied in or out. The block stack calls Unshard before a unit is
// used, Prefetch for the next one, ReduceGradients after its backward and Reshard after use; the
// optimizer works on sharded(). With one rank the shard is the whole and these four do nothing.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/execution.h"
#include "parallel/device_mesh.h"
#include "parallel/named_state.h"
#include "parallel/parameter.h"

namespace plait {

struct ParameterUnit {
  std::string name;
  std::vector<Parameter*> parameters;  // owned by the layers, which must outlive the sharder
};

class ParameterSharder {
 public:
  // Allocates masters, gradients (zero) and values for all units. Parameter::dtype must be set;
  // bf16 and f32 values have f32 masters, f64 values f64 ones. AlreadyExists if a name occurs
  // twice.
  static absl::StatusOr<std::unique_ptr<ParameterSharder>> Create(Execution& execution,
                                                                  const DeviceMesh& mesh,
                                                                  std::vector<ParameterUnit> units);

  int num_units() const { return static_cast<int>(units_.size()); }
  absl::Status Unshard(Execution& execution, int unit);
  absl::Status Prefetch(Execution& execution, int unit);
  absl::Status ReduceGradients(Execution& execution, int unit);
  absl::Status Reshard(Execution& execution, int unit);
  // After the last microbatch: waits (on the compute stream) for every outstanding reduction.
  absl::Status FinishGradients(Execution& execution);
  void ZeroGradients();

  // In the order of the units and of the parameters in them.
  std::span<ShardedParameter> sharded() { return sharded_; }
  // compute = master, rounded: after masters were written by initialisation or a checkpoint.
  void RefreshComputeValues();
  // "parameters/<name>" for every parameter: the masters.
  void AppendState(NamedState& state);

  int64_t num_parameters() const;  // logical elements, each counted once

 private:
  ParameterSharder() = default;

  std::vector<ParameterUnit> units_;
  std::vector<ShardedParameter> sharded_;
};

}  // namespace plait
