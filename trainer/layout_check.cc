#include "trainer/layout_check.h"

#include <algorithm>
#include <cmath>
#include <span>
#include <type_traits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/status_macros.h"
#include "checkpoint/shard_overlap.h"
#include "parallel/host_collectives.h"
#include "parallel/local_communicator.h"
#include "parallel/status_agreement.h"
#include "recipes/schema/recipe.pb.h"
#include "trainer/clear_routing.h"
#include "trainer/fresh_model.h"
#include "trainer/step_quantities.h"

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
absl::StatusOr<std::map<std::string, Tensor>> Assemble(Communicator& world, Execution& execution,
                                                       const Shapes& shapes,
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
    PLAIT_ASSIGN_OR_RETURN(const Tensor own, execution.ToHost(parameter.*member));
    const Tensor shard = own.Converted(DType::kF64);
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
absl::Status Inject(const LayoutFault& fault, Communicator& world, Execution& execution,
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
  const auto scale = [&fault](auto values) {
    using Number = std::remove_reference_t<decltype(values[0])>;
    for (auto& value : values) value *= static_cast<Number>(fault.factor);
  };
  PLAIT_ASSIGN_OR_RETURN(Tensor gradient, execution.ToHost(broken->gradient));
  if (gradient.dtype() == DType::kF64) {
    scale(gradient.values<double>());
  } else {
    scale(gradient.values<float>());
  }
  if (gradient.raw() == broken->gradient.raw()) return absl::OkStatus();
  PLAIT_RETURN_IF_ERROR(execution.Copy(gradient, broken->gradient));
  return execution.compute().Synchronize();
}

// Collective. shapes: empty on one rank, where the model says it.
absl::StatusOr<CheckedStep> RunStep(const std::shared_ptr<Communicator>& world,
                                    const ExecutionOptions& execution_options, const Recipe& recipe,
                                    std::span<const Batch> leaves, Shapes shapes,
                                    const LayoutFault& fault) {
  Execution execution(execution_options);
  PLAIT_ASSIGN_OR_RETURN(const auto fresh, FreshModel::Create(execution, recipe, world));
  const std::span<ShardedParameter> parameters = fresh->runtime.sharder->sharded();
  if (shapes.empty()) shapes = ShapesOf(parameters);
  CheckedStep checked;
  PLAIT_ASSIGN_OR_RETURN(
      checked.weights, Assemble(*world, execution, shapes, parameters, &ShardedParameter::master));
  PLAIT_ASSIGN_OR_RETURN(checked.result, fresh->step->Run(OwnLeaves(*fresh->runtime.mesh, leaves),
                                                          /*learning_rate=*/0.0));
  if (!fault.tensor.empty()) {
    PLAIT_RETURN_IF_ERROR(Inject(fault, *world, execution, parameters));
  }
  PLAIT_ASSIGN_OR_RETURN(checked.gradients, Assemble(*world, execution, shapes, parameters,
                                                     &ShardedParameter::gradient));
  return checked;
}

// The number that is furthest apart in units of what is allowed. allowed: of number i (kVector: of
// the norm), whose size is given.
template <class Allowed>
LayoutDifference Difference(const StepQuantity& found, const StepQuantity& expected,
                            const Allowed& allowed) {
  LayoutDifference worst{.tensor = expected.name};
  if (found.name != expected.name || found.values.size() != expected.values.size()) {
    worst.error = kInfinity;
    return worst;
  }
  double most = -1;
  const auto compare = [&](size_t i, double difference, double size) {
    if (!std::isfinite(difference)) difference = kInfinity;
    const double limit = expected.kind == QuantityKind::kEqual ? 0 : allowed(i, size);
    const double excess = difference == 0 ? 0 : difference / limit;
    if (excess <= most) return;
    most = excess;
    const double unit = size > 0 ? size : 1;
    worst.error = difference / unit;
    worst.bound = limit / unit;
  };
  double difference_squares = 0, squares = 0;
  for (size_t i = 0; i < expected.values.size(); ++i) {
    const double difference = found.values[i] - expected.values[i];
    if (expected.kind == QuantityKind::kVector) {
      difference_squares += difference * difference;
      squares += expected.values[i] * expected.values[i];
    } else {
      compare(i, std::abs(difference), std::abs(expected.values[i]));
    }
  }
  if (expected.kind == QuantityKind::kVector) {
    compare(0, std::sqrt(difference_squares), std::sqrt(squares));
  }
  return worst;
}

std::vector<LayoutDifference> Compare(const CheckedStep& found, const CheckedStep& one_rank,
                                      const CheckedLayout& layout, DType precision) {
  std::vector<LayoutDifference> differences;
  const auto weight = [](const std::string& name, const Tensor& tensor) {
    const auto values = tensor.values<double>();
    return StepQuantity{
        absl::StrCat("initial ", name), QuantityKind::kVector, {values.begin(), values.end()}};
  };
  for (const auto& [name, tensor] : one_rank.weights) {
    differences.push_back(Difference(weight(name, found.weights.at(name)), weight(name, tensor),
                                     [](size_t, double) { return 0.0; }));
  }
  const std::vector<StepQuantity> quantities = QuantitiesOf(found.gradients, found.result);
  const std::vector<StepQuantity> expected = QuantitiesOf(one_rank.gradients, one_rank.result);
  const double variance = layout.rounding_variance();
  for (size_t q = 0; q < expected.size(); ++q) {
    const bool is_rounded =
        precision == DType::kBf16 && variance > 0 && expected[q].kind != QuantityKind::kEqual;
    differences.push_back(
        is_rounded
            ? Difference(quantities[q], one_rank.rounding->exact[q],
                         [&](size_t i, double size) {
                           return one_rank.rounding->Allowed(expected[q].name, i, size, variance);
                         })
            : Difference(quantities[q], expected[q],
                         [&](size_t, double size) { return layout.bound(precision) * size; }));
  }
  return differences;
}

// On one rank, over all microbatches.
absl::StatusOr<double> RoutingGap(Recipe recipe, std::span<const Batch> leaves) {
  recipe.mutable_trainer()->set_recomputation(recipe::v1::Trainer::BLOCKS);  // keeps the routings
  Execution execution{{.num_threads = 1}};
  PLAIT_ASSIGN_OR_RETURN(ModelRuntime model, ModelRuntime::Create(execution, recipe));
  PLAIT_RETURN_IF_ERROR(model.model->Initialize(*model.sharder, recipe.seed()));
  double gap = kInfinity;
  for (const Batch& leaf : leaves) {
    PLAIT_ASSIGN_OR_RETURN(const MicrobatchRouting routing, Route(execution, model, leaf));
    gap = std::min(gap, routing.gap());
  }
  return gap;
}

}  // namespace

absl::StatusOr<CheckedStep> StepOnOneRank(CheckedModel model, DType precision, int leaves,
                                          const ExecutionOptions& execution) {
  PLAIT_ASSIGN_OR_RETURN(const Recipe recipe, CheckedRecipe(model, precision, {}));
  std::vector<Batch> batches;
  for (int i = 0; i < leaves; ++i) batches.push_back(CheckedLeaf(i));
  std::optional<RoundingReference> rounding;
  if (precision == DType::kBf16) {
    PLAIT_ASSIGN_OR_RETURN(const Recipe exact, CheckedRecipe(model, DType::kF64, {}));
    PLAIT_ASSIGN_OR_RETURN(rounding, MeasureRounding(recipe, exact, std::move(batches)));
    batches = rounding->leaves;
  }
  PLAIT_ASSIGN_OR_RETURN(const double gap, RoutingGap(recipe, batches));
  if (gap < kSafeRoutingGap) {
    return absl::FailedPreconditionError(absl::StrCat(
        std::string(Name(model)), ": two experts' probabilities differ by ", gap,
        ", expected at least ", kSafeRoutingGap, ": a rounding may choose another one"));
  }
  PLAIT_ASSIGN_OR_RETURN(CheckedStep step,
                         RunStep(MakeSingleRankCommunicator(), execution, recipe, batches, {}, {}));
  step.leaves = std::move(batches);
  step.rounding = std::move(rounding);
  step.routing_gap = gap;
  return step;
}

absl::StatusOr<std::vector<LayoutDifference>> CompareWithOneRank(
    const std::shared_ptr<Communicator>& world, CheckedModel model, DType precision,
    const CheckedLayout& layout, const CheckedStep& one_rank, const LayoutFault& fault,
    const ExecutionOptions& execution) {
  PLAIT_ASSIGN_OR_RETURN(const Recipe recipe, CheckedRecipe(model, precision, layout));
  PLAIT_ASSIGN_OR_RETURN(const CheckedStep step, RunStep(world, execution, recipe, one_rank.leaves,
                                                         ShapesOf(one_rank), fault));
  std::vector<LayoutDifference> differences = Compare(step, one_rank, layout, precision);
  // What every rank was told must be right: the largest error, the smallest bound.
  std::vector<double> worst;
  for (const LayoutDifference& difference : differences)
    worst.insert(worst.end(), {difference.error, -difference.bound});
  PLAIT_RETURN_IF_ERROR(
      AllReduceOnHost(*world, {worst.data(), DType::kF64, static_cast<int64_t>(worst.size())},
                      ReduceOperation::kMax));
  for (size_t i = 0; i < differences.size(); ++i) {
    differences[i].error = worst[2 * i];
    differences[i].bound = -worst[2 * i + 1];
  }
  return differences;
}

absl::StatusOr<std::vector<LayoutDifference>> CompareWithOneRank(
    CheckedModel model, DType precision, const CheckedLayout& layout, const CheckedStep& one_rank,
    const LayoutFault& fault, const DeviceOfRank& device_of_rank) {
  std::vector<LayoutDifference> differences;
  PLAIT_RETURN_IF_ERROR(RunLocalRanks(
      layout.ranks(), [&](const std::shared_ptr<Communicator>& world) -> absl::Status {
        world->ledger().set_check(true);
        const auto execution = device_of_rank(world->rank());
        const absl::Status found = AgreeOnStatus(*world, execution.status());
        if (!found.ok()) return found;
        PLAIT_ASSIGN_OR_RETURN(auto own, CompareWithOneRank(world, model, precision, layout,
                                                            one_rank, fault, *execution));
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
