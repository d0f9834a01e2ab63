#include "optim/adamw.h"

#include <cmath>
#include <string>
#include <unordered_set>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "kernels/optimizer_update.h"
#include "optim/parameter_groups.h"
#include "recipes/recipe_defaults.h"

namespace plait {
namespace {

constexpr char kFirstMoment[] = "adamw.first_moment/";
constexpr char kSecondMoment[] = "adamw.second_moment/";
constexpr char kStep[] = "adamw.step";

}  // namespace

absl::StatusOr<std::unique_ptr<AdamW>> AdamW::Create(Execution& execution,
                                                     const recipe::v1::AdamW& config,
                                                     std::span<ShardedParameter> parameters) {
  recipe::v1::Recipe recipe;
  *recipe.mutable_optim()->mutable_adamw() = config;
  const recipe::v1::AdamW settings = Resolved(recipe).optim().adamw();

  std::unique_ptr<AdamW> adamw(new AdamW());
  adamw->parameters_ = parameters;
  adamw->beta1_ = settings.beta1();
  adamw->beta2_ = settings.beta2();
  adamw->epsilon_ = settings.epsilon();
  std::unordered_set<std::string> names;
  for (const ShardedParameter& parameter : parameters) {
    if (!names.insert(parameter.name).second) {
      return absl::AlreadyExistsError(
          absl::StrCat(parameter.name, ": the optimizer was given the parameter twice"));
    }
    const Tensor& master = parameter.master;
    adamw->moments_.push_back({execution.Zeros(master.dtype(), master.shape()),
                               execution.Zeros(master.dtype(), master.shape()),
                               HasWeightDecay(parameter.name) ? settings.weight_decay() : 0.0});
  }
  return adamw;
}

absl::Status AdamW::Step(Execution& execution, double learning_rate, double gradient_scale) {
  if (!std::isfinite(gradient_scale) || !std::isfinite(learning_rate)) {
    return absl::FailedPreconditionError(absl::StrCat("adamw: no update with gradient scale ",
                                                      gradient_scale, " and learning rate ",
                                                      learning_rate, ": both must be finite"));
  }
  ++step_;
  std::vector<AdamWTensor> tensors;
  tensors.reserve(parameters_.size());
  for (size_t i = 0; i < parameters_.size(); ++i) {
    ShardedParameter& parameter = parameters_[i];
    if (parameter.master.num_elements() == 0) continue;  // all of it is other ranks'
    Moments& moments = moments_[i];
    AdamWTensor tensor = {.name = parameter.name,
                          .parameter = parameter.master.vector(),
                          .gradient = parameter.gradient.vector(),
                          .first_moment = moments.first.vector(),
                          .second_moment = moments.second.vector(),
                          .weight_decay = moments.weight_decay};
    if (parameter.compute.raw() != parameter.master.raw()) {
      tensor.compute = parameter.compute.vector();
    }
    tensors.push_back(tensor);
  }
  return AdamWUpdate(execution, {.tensors = tensors,
                                 .learning_rate = learning_rate,
                                 .beta1 = beta1_,
                                 .beta2 = beta2_,
                                 .epsilon = epsilon_,
                                 .gradient_scale = gradient_scale,
                                 .step = step_});
}

void AdamW::AppendState(NamedState& state) const {
  for (size_t i = 0; i < parameters_.size(); ++i) {
    const ShardedParameter& parameter = parameters_[i];
    state.tensors.push_back({absl::StrCat(kFirstMoment, parameter.name), moments_[i].first,
                             parameter.spec, parameter.replica, parameter.replicas});
    state.tensors.push_back({absl::StrCat(kSecondMoment, parameter.name), moments_[i].second,
                             parameter.spec, parameter.replica, parameter.replicas});
  }
  state.integers[kStep] = step_;
}

absl::Status AdamW::RestoreScalars(const NamedState& state) {
  const auto found = state.integers.find(kStep);
  if (found == state.integers.end()) {
    return absl::NotFoundError(absl::StrCat(kStep, ": missing from the saved state"));
  }
  if (found->second < 0) {
    return absl::OutOfRangeError(absl::StrCat(kStep, ": expected at least 0, got ", found->second));
  }
  step_ = found->second;
  return absl::OkStatus();
}

}  // namespace plait
