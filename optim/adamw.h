// AdamW with decoupled weight decay (formula and source: kernels/optimizer_update_args.h).
// Parameters that do not decay: parameter_groups.h. State: "adamw.first_moment/<name>",
// "adamw.second_moment/<name>" and the integer "adamw.step", the number of updates done.
#pragma once

#include <memory>
#include <span>
#include <vector>

#include "absl/status/statusor.h"
#include "optim/optimizer.h"
#include "parallel/parameter.h"

namespace plait {

namespace recipe::v1 {
class AdamW;
}

class AdamW final : public Optimizer {
 public:
  // config: a validated recipe's; unset fields take their documented defaults. parameters:
  // sharder.sharded(), each once.
  static absl::StatusOr<std::unique_ptr<AdamW>> Create(Execution& execution,
                                                       const recipe::v1::AdamW& config,
                                                       std::span<ShardedParameter> parameters);

  absl::Status Step(Execution& execution, double learning_rate, double gradient_scale) override;
  void AppendState(NamedState& state) const override;
  absl::Status RestoreScalars(const NamedState& state) override;

  // Updates done so far.
  int64_t step() const { return step_; }

 private:
  struct Moments {
    Tensor first;  // dtype and size of the master
    Tensor second;
    double weight_decay = 0;
  };

  AdamW() = default;

  std::span<ShardedParameter> parameters_;
  std::vector<Moments> moments_;  // beside parameters_
  double beta1_ = 0;
  double beta2_ = 0;
  double epsilon_ = 0;
  int64_t step_ = 0;
};

}  // namespace plait
