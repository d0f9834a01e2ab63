#include "trainer/layout_check.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <mutex>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/status_macros.h"
#include "checkpoint/shard_overlap.h"
#include "optim/adamw.h"
#include "parallel/host_collectives.h"
#include "parallel/local_communicator.h"
#include "recipes/schema/recipe.pb.h"
#include "trainer/model_runtime.h"
#include "trainer/pretraining_objective.h"

namespace plait {
namespace {

using recipe::v1::Recipe;

constexpr double kSafeRoutingGap = 1e-4;
constexpr double kInfinity = std::numeric_limits<double>::infinity();

// Name -> shape of every logical tensor. On one rank they are all there; elsewhere the one rank's.
using Shapes = std::map<std::string, Shape>;

Shapes ShapesOf(const CheckedStep& step) {
  Shapes shapes;
  for (const auto& [name, tensor] : step.gradients) shapes[name] = tensor.shape();
  return shapes;
}

Shapes ShapesOf(std::span<const ShardedParameter> parameters) {
  Shapes shapes;
  for (const ShardedParameter& parameter : parameters)
    shapes[parameter.name] = parameter.spec.logical_shape;
  return shapes;
}

// Whole tensors from the shards of all ranks: each rank lays its own into zeros, and all are added
// up. Every element must come from one rank. Collective.
absl::StatusOr<std::map<std::string, Tensor>> Assemble(Communicator& world, const Shapes& shapes,
                                                       std::span<const ShardedParameter> parameters,
                                                       Tensor ShardedParameter::*member) {
  std::map<std::string, Tensor> whole;
  std::map<std::string, double> elements;
  for (const auto& [name, shape] : shapes) {
    whole[name] = Tensor::OnHost(DType::kF64, shape);
    elements[name] = 0;
  }
  for (const ShardedParameter& parameter : parameters) {
    const auto found = whole.find(parameter.name);
    if (found == whole.end() || found->second.shape() != parameter.spec.logical_shape) {
      return absl::InternalError(absl::StrCat(parameter.name, ": one rank has no tensor of shape ",
                                              parameter.spec.logical_shape.ToString()));
    }
    if (parameter.replica != 0) continue;
    const Tensor shard = (parameter.*member).Converted(DType::kF64);
    for (const ShardRun& run : RunsOf(parameter.spec)) {
      std::copy_n(shard.data<double>() + run.shard, run.length,
                  found->second.data<double>() + run.logical);
      elements[parameter.name] += static_cast<double>(run.length);
    }
  }
  std::vector<double> counts;
  for (const auto& [name, count] : elements) counts.push_back(count);
  PLAIT_RETURN_IF_ERROR(
      AllReduceOnHost(world, {counts.data(), DType::kF64, static_cast<int64_t>(counts.size())},
                      ReduceOperation::kSum));
  size_t i = 0;
  for (auto& [name, tensor] : whole) {
    if (counts[i] != static_cast<double>(tensor.num_elements())) {
      return absl::InternalError(absl::StrCat(name, ": expected ", tensor.num_elements(),
                                              " elements over all ranks, got ", counts[i]));
    }
    ++i;
    PLAIT_RETURN_IF_ERROR(AllReduceOnHost(world, tensor.vector(), ReduceOperation::kSum));
  }
  return whole;
}

// Collective: the last rank that has part of the tensor.
absl::Status Inject(const LayoutFault& fault, Communicator& world,
                    std::span<ShardedParameter> parameters) {
  ShardedParameter* broken = nullptr;
  for (ShardedParameter& parameter : parameters) {
    if (parameter.name == fault.tensor && parameter.replica == 0 &&
        parameter.gradient.num_elements() > 0) {
      broken = &parameter;
    }
  }
  double last = broken == nullptr ? -1 : world.rank();
  PLAIT_RETURN_IF_ERROR(AllReduceOnHost(world, {&last, DType::kF64, 1}, ReduceOperation::kMax));
  if (last < 0) {
    return absl::NotFoundError(absl::StrCat("fault: the model has no tensor '", fault.tensor, "'"));
  }
  if (last != world.rank()) return absl::OkStatus();
  const auto scale = [](auto values) {
    for (auto& value : values) value *= 1.01f;
  };
  if (broken->gradient.dtype() == DType::kF64) {
    scale(broken->gradient.values<double>());
  } else {
    scale(broken->gradient.values<float>());
  }
  return absl::OkStatus();
}

// Collective. shapes: empty on one rank, where the model says it.
absl::StatusOr<CheckedStep> RunStep(const std::shared_ptr<Communicator>& world,
                                    const Recipe& recipe, int leaves, Shapes shapes,
                                    const LayoutFault& fault) {
  Execution execution{{.num_threads = 1}};
  PLAIT_ASSIGN_OR_RETURN(ModelRuntime runtime, ModelRuntime::Create(execution, recipe, world));
  PLAIT_RETURN_IF_ERROR(runtime.model->Initialize(*runtime.sharder, recipe.seed()));
  PLAIT_ASSIGN_OR_RETURN(
      auto optimizer, AdamW::Create(execution, recipe.optim().adamw(), runtime.sharder->sharded()));
  const std::span<ShardedParameter> parameters = runtime.sharder->sharded();
  if (shapes.empty()) shapes = ShapesOf(parameters);
  CheckedStep checked;
  PLAIT_ASSIGN_OR_RETURN(checked.weights,
                         Assemble(*world, shapes, parameters, &ShardedParameter::master));
  const PretrainingObjective objective;
  TrainingStep step(execution, runtime, *optimizer, objective, recipe.optim().gradient_clip_norm());
  std::vector<Batch> own;
  for (int64_t leaf = runtime.mesh->data_parallel_rank(); leaf < leaves;
       leaf += runtime.mesh->data_parallel_size()) {
    own.push_back(CheckedLeaf(static_cast<int>(leaf)));
  }
  PLAIT_ASSIGN_OR_RETURN(checked.result, step.Run(own, /*learning_rate=*/0.0));
  if (!fault.tensor.empty()) PLAIT_RETURN_IF_ERROR(Inject(fault, *world, parameters));
  PLAIT_ASSIGN_OR_RETURN(checked.gradients,
                         Assemble(*world, shapes, parameters, &ShardedParameter::gradient));
  return checked;
}

// Of one microbatch.
double RoutingGap(const SequenceLayout& layout, const Routing& routing) {
  const Tensor probabilities = routing.probabilities.Converted(DType::kF64);
  const Tensor real = layout.real.Converted(DType::kF64);
  const int64_t experts = probabilities.shape()[1], chosen = routing.choices.shape()[1];
  double gap = kInfinity;
  for (int64_t t = 0; t < layout.rows; ++t) {
    if (real.data<double>()[t] == 0) continue;
    const double* row = probabilities.data<double>() + t * experts;
    std::vector<double> sorted(row, row + experts);
    std::sort(sorted.rbegin(), sorted.rend());
    gap = std::min(gap, sorted[chosen - 1] - sorted[chosen]);
  }
  return gap;
}

// Over all microbatches. recipe: on one rank.
absl::StatusOr<double> RoutingGap(Recipe recipe, int leaves) {
  recipe.mutable_trainer()->set_recomputation(recipe::v1::Trainer::BLOCKS);  // keeps the routings
  Execution execution{{.num_threads = 1}};
  PLAIT_ASSIGN_OR_RETURN(ModelRuntime runtime, ModelRuntime::Create(execution, recipe));
  PLAIT_RETURN_IF_ERROR(runtime.model->Initialize(*runtime.sharder, recipe.seed()));
  double gap = kInfinity;
  for (int leaf = 0; leaf < leaves; ++leaf) {
    const Batch batch = CheckedLeaf(leaf);
    PLAIT_ASSIGN_OR_RETURN(const Microbatch microbatch,
                           Microbatch::Create(batch.tokens, batch.targets, batch.token_weight,
                                              batch.document_offsets, runtime.model->dtype()));
    LanguageModel::Saved saved;
    PLAIT_RETURN_IF_ERROR(runtime.model
                              ->Forward(execution, *runtime.sharder, microbatch.tokens,
                                        microbatch.layout, /*caches=*/nullptr, &saved)
                              .status());
    for (const Routing& routing : saved.stack.routings) {
      if (routing.choices) gap = std::min(gap, RoutingGap(microbatch.layout, routing));
    }
  }
  return gap;
}

// Of the whole tensors, over the norm of the expected one.
double ErrorOf(const Tensor& found, const Tensor& expected) {
  double difference = 0, norm = 0;
  for (int64_t i = 0; i < expected.num_elements(); ++i) {
    const double b = expected.data<double>()[i], d = found.data<double>()[i] - b;
    difference += d * d;
    norm += b * b;
  }
  return difference == 0 ? 0 : std::sqrt(difference / norm);
}

double ErrorOf(double found, double expected) {
  return found == expected ? 0 : std::abs(found - expected) / std::abs(expected);
}

class Differences {
 public:
  void Add(const std::string& tensor, double error, double bound) {
    list_.push_back({tensor, std::isfinite(error) ? error : kInfinity, bound});
  }
  // Of what a layer counts or measures; infinite where it is not there.
  void Add(const std::string& name, const std::vector<double>& found,
           const std::vector<double>& expected, double bound) {
    double worst = found.size() == expected.size() ? 0 : kInfinity;
    for (size_t i = 0; i < std::min(found.size(), expected.size()); ++i)
      worst = std::max(worst, ErrorOf(found[i], expected[i]));
    Add(name, worst, bound);
  }
  std::vector<LayoutDifference> Take() { return std::move(list_); }

 private:
  std::vector<LayoutDifference> list_;
};

std::vector<double> Numbers(const std::vector<int64_t>& counts) {
  return {counts.begin(), counts.end()};
}

void CompareWatch(const ActivationWatch& found, const ActivationWatch& expected, double bound,
                  Differences& differences) {
  std::map<std::string, const BlockActivations*> blocks;
  for (const BlockActivations& block : found.blocks) blocks[block.name] = &block;
  for (const BlockActivations& block : expected.blocks) {
    const BlockActivations* other = blocks[block.name];
    const auto numbers = [](const BlockActivations& b) {
      return std::vector<double>{b.square_sum, b.elements, b.absolute_max};
    };
    differences.Add(absl::StrCat("activations of ", block.name),
                    other == nullptr ? std::vector<double>() : numbers(*other), numbers(block),
                    bound);
  }
  std::map<std::string, const ExpertActivations*> layers;
  for (const ExpertActivations& layer : found.experts) layers[layer.name] = &layer;
  static const ExpertActivations kNone;
  for (const ExpertActivations& layer : expected.experts) {
    const ExpertActivations* other = layers[layer.name];
    if (other == nullptr) other = &kNone;
    differences.Add(absl::StrCat("tokens of the experts of ", layer.name), Numbers(other->tokens),
                    Numbers(layer.tokens), /*bound=*/0);
    differences.Add(absl::StrCat("squares of the experts of ", layer.name), other->square_sum,
                    layer.square_sum, bound);
    differences.Add(absl::StrCat("maxima of the experts of ", layer.name), other->absolute_max,
                    layer.absolute_max, bound);
  }
}

std::vector<LayoutDifference> Compare(const CheckedStep& found, const CheckedStep& expected,
                                      double bound) {
  Differences differences;
  for (const auto& [name, tensor] : expected.weights) {
    differences.Add(absl::StrCat("initial ", name), ErrorOf(found.weights.at(name), tensor),
                    /*bound=*/0);
  }
  for (const auto& [name, tensor] : expected.gradients)
    differences.Add(name, ErrorOf(found.gradients.at(name), tensor), bound);
  const StepResult& a = found.result;
  const StepResult& b = expected.result;
  differences.Add("gradient norm", ErrorOf(a.gradient_norm, b.gradient_norm), bound);
  differences.Add("loss", ErrorOf(a.loss(), b.loss()), bound);
  differences.Add("language-model loss", ErrorOf(a.language_model_loss, b.language_model_loss),
                  bound);
  differences.Add("balance loss", ErrorOf(a.balance_loss, b.balance_loss), bound);
  differences.Add("z loss", ErrorOf(a.z_loss, b.z_loss), bound);
  differences.Add("activation loss", ErrorOf(a.activation_loss, b.activation_loss), bound);
  differences.Add("weight sum", ErrorOf(a.counts.weight_sum, b.counts.weight_sum), /*bound=*/0);
  differences.Add("real tokens", ErrorOf(a.counts.real_tokens, b.counts.real_tokens),
                  /*bound=*/0);
  CompareWatch(a.watch, b.watch, bound, differences);
  return differences.Take();
}

}  // namespace

absl::StatusOr<CheckedStep> StepOnOneRank(CheckedModel model, DType precision, int leaves) {
  PLAIT_ASSIGN_OR_RETURN(const Recipe recipe, CheckedRecipe(model, precision, {}));
  PLAIT_ASSIGN_OR_RETURN(const double gap, RoutingGap(recipe, leaves));
  if (gap < kSafeRoutingGap) {
    return absl::FailedPreconditionError(absl::StrCat(
        std::string(Name(model)), ": two experts' probabilities differ by ", gap,
        ", expected at least ", kSafeRoutingGap, ": a rounding may choose another one"));
  }
  PLAIT_ASSIGN_OR_RETURN(CheckedStep step,
                         RunStep(MakeSingleRankCommunicator(), recipe, leaves, {}, {}));
  step.routing_gap = gap;
  return step;
}

absl::StatusOr<std::vector<LayoutDifference>> CompareWithOneRank(
    const std::shared_ptr<Communicator>& world, CheckedModel model, DType precision,
    const CheckedLayout& layout, const CheckedStep& one_rank, const LayoutFault& fault) {
  PLAIT_ASSIGN_OR_RETURN(const Recipe recipe, CheckedRecipe(model, precision, layout));
  PLAIT_ASSIGN_OR_RETURN(const CheckedStep step, RunStep(world, recipe, NumCheckedLeaves(layout),
                                                         ShapesOf(one_rank), fault));
  std::vector<LayoutDifference> differences = Compare(step, one_rank, layout.bound(precision));
  // What every rank was told must be right.
  std::vector<double> errors;
  for (const LayoutDifference& difference : differences) errors.push_back(difference.error);
  PLAIT_RETURN_IF_ERROR(
      AllReduceOnHost(*world, {errors.data(), DType::kF64, static_cast<int64_t>(errors.size())},
                      ReduceOperation::kMax));
  for (size_t i = 0; i < errors.size(); ++i) differences[i].error = errors[i];
  return differences;
}

absl::StatusOr<std::vector<LayoutDifference>> CompareWithOneRank(CheckedModel model,
                                                                 DType precision,
                                                                 const CheckedLayout& layout,
                                                                 const CheckedStep& one_rank,
                                                                 const LayoutFault& fault) {
  std::vector<LayoutDifference> differences;
  PLAIT_RETURN_IF_ERROR(RunLocalRanks(
      layout.ranks(), [&](const std::shared_ptr<Communicator>& world) -> absl::Status {
        world->ledger().set_check(true);
        PLAIT_ASSIGN_OR_RETURN(
            auto own, CompareWithOneRank(world, model, precision, layout, one_rank, fault));
        if (world->rank() == 0) differences = std::move(own);
        return absl::OkStatus();
      }));
  return differences;
}

const LayoutDifference& WorstOf(const std::vector<LayoutDifference>& differences) {
  PLAIT_CHECK(!differences.empty());
  // In units of the bound; where that is 0, any error is more than all others. Of what is equal to
  // the last bit, something that need not be.
  const auto excess = [](const LayoutDifference& d) {
    return std::pair(d.bound > 0 ? d.error / d.bound : d.error > 0 ? kInfinity : 0, d.bound);
  };
  return *std::max_element(
      differences.begin(), differences.end(),
      [&](const LayoutDifference& a, const LayoutDifference& b) { return excess(a) < excess(b); });
}

}  // namespace plait
