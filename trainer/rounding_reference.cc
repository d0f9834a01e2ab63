#include "trainer/rounding_reference.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/status_macros.h"
#include "recipes/schema/recipe.pb.h"
#include "trainer/clear_routing.h"
#include "trainer/model_runtime.h"

namespace plait {
namespace {

using recipe::v1::Recipe;
using Quantities = std::vector<StepQuantity>;

constexpr double kDeviations = 5;
constexpr double kRounding = 1.0 / 256;
constexpr char kNorm[] = "gradient norm";

absl::StatusOr<ModelRuntime> InitializedModel(Execution& execution, Recipe recipe) {
  recipe.mutable_trainer()->set_recomputation(recipe::v1::Trainer::BLOCKS);  // keeps the routings
  PLAIT_ASSIGN_OR_RETURN(ModelRuntime model, ModelRuntime::Create(execution, recipe));
  PLAIT_RETURN_IF_ERROR(model.model->Initialize(*model.sharder, recipe.seed()));
  return model;
}

absl::Status CopyComputeValues(ModelRuntime& from, ModelRuntime& to) {
  const auto sources = from.sharder->sharded();
  const auto targets = to.sharder->sharded();
  for (size_t i = 0; i < sources.size(); ++i) {
    PLAIT_CHECK(sources[i].name == targets[i].name);
    const Tensor values = sources[i].compute.Converted(DType::kF64);
    std::ranges::copy(values.values<double>(), targets[i].master.data<double>());
  }
  return to.sharder->RefreshComputeValues();
}

// What one microbatch adds to the step. counts: of the step.
absl::StatusOr<Quantities> LeafQuantities(Execution& execution, ModelRuntime& model,
                                          const Batch& batch, const StepCounts& counts) {
  PLAIT_ASSIGN_OR_RETURN(const Microbatch microbatch,
                         Microbatch::Create(batch.tokens, batch.targets, batch.token_weight,
                                            batch.document_offsets, model.model->dtype()));
  PLAIT_RETURN_IF_ERROR(model.sharder->ZeroGradients());
  PLAIT_ASSIGN_OR_RETURN(
      const MicrobatchLosses losses,
      model.model->LossAndGradient(execution, *model.sharder, microbatch, counts));
  PLAIT_RETURN_IF_ERROR(model.sharder->FinishGradients(execution));
  std::map<std::string, Tensor> gradients;
  for (const ShardedParameter& parameter : model.sharder->sharded())
    gradients[parameter.name] = parameter.gradient.Converted(DType::kF64);
  return QuantitiesOf(gradients,
                      {.counts = {batch.weight_sum, static_cast<double>(batch.real_tokens)},
                       .language_model_loss = losses.language_model,
                       .balance_loss = losses.balance,
                       .z_loss = losses.z,
                       .activation_loss = losses.activation,
                       .watch = losses.watch});
}

double Product(const std::vector<double>& a, const std::vector<double>& b) {
  double sum = 0;
  for (size_t i = 0; i < a.size(); ++i) sum += a[i] * b[i];
  return sum;
}

// leaves: a quantity's error in each microbatch.
RoundingReference::Errors ErrorsOf(QuantityKind kind,
                                   const std::vector<std::vector<double>>& leaves) {
  RoundingReference::Errors errors;
  if (kind != QuantityKind::kVector) {
    errors.sigma.assign(leaves[0].size(), 0);
    for (const std::vector<double>& leaf : leaves) {
      for (size_t i = 0; i < leaf.size(); ++i) {
        errors.sigma[i] = kind == QuantityKind::kMaxima
                              ? std::max(errors.sigma[i], std::abs(leaf[i]))
                              : std::hypot(errors.sigma[i], leaf[i]);
      }
    }
    return errors;
  }
  double squares = 0, products = 0, most_products = 0;
  for (size_t l = 0; l < leaves.size(); ++l) {
    squares += Product(leaves[l], leaves[l]);
    for (size_t m = 0; m < l; ++m) {
      products += std::pow(Product(leaves[l], leaves[m]), 2);
      most_products += Product(leaves[l], leaves[l]) * Product(leaves[m], leaves[m]);
    }
  }
  errors.sigma = {std::sqrt(squares)};
  if (products > 0) errors.directions = most_products / products;
  return errors;
}

// The step from its microbatches.
void AddLeaf(const Quantities& leaf, Quantities& step) {
  if (step.empty()) {
    step = leaf;
    return;
  }
  for (size_t q = 0; q < leaf.size(); ++q) {
    for (size_t i = 0; i < leaf[q].values.size(); ++i) {
      double& total = step[q].values[i];
      const double value = leaf[q].values[i];
      total = leaf[q].kind == QuantityKind::kMaxima ? std::max(total, value) : total + value;
    }
  }
}

// Of the norm over all gradients, which no microbatch knows.
void SetNorm(RoundingReference& reference) {
  double squares = 0;
  for (const StepQuantity& quantity : reference.exact)
    if (quantity.kind == QuantityKind::kVector)
      squares += Product(quantity.values, quantity.values);
  for (StepQuantity& quantity : reference.exact)
    if (quantity.name == kNorm) quantity.values = {std::sqrt(squares)};
}

}  // namespace

double RoundingReference::Allowed(const std::string& quantity, size_t i, double size,
                                  double variance) const {
  if (quantity == kNorm) {
    double squares = 0;
    for (const StepQuantity& gradient : exact) {
      if (gradient.kind != QuantityKind::kVector) continue;
      const double norm = std::sqrt(Product(gradient.values, gradient.values));
      squares += std::pow(Allowed(gradient.name, 0, norm, variance), 2);
    }
    return std::sqrt(squares);
  }
  const Errors& own = errors.at(quantity);
  const double above = 1 + kDeviations / std::sqrt(2 * own.directions);
  return std::sqrt(variance) * above * own.sigma.at(i) + kRounding * size;
}

absl::StatusOr<RoundingReference> MeasureRounding(const Recipe& rounded_recipe,
                                                  const Recipe& exact_recipe,
                                                  std::vector<Batch> leaves) {
  Execution execution{{.num_threads = 1}};
  PLAIT_ASSIGN_OR_RETURN(ModelRuntime rounded, InitializedModel(execution, rounded_recipe));
  PLAIT_ASSIGN_OR_RETURN(ModelRuntime exact, InitializedModel(execution, exact_recipe));
  PLAIT_RETURN_IF_ERROR(CopyComputeValues(rounded, exact));
  RoundingReference reference;
  StepCounts counts;
  for (const Batch& leaf : leaves) {
    PLAIT_ASSIGN_OR_RETURN(Batch clear, WithClearRouting(execution, exact, rounded, leaf));
    counts.weight_sum += clear.weight_sum;
    counts.real_tokens += static_cast<double>(clear.real_tokens);
    reference.leaves.push_back(std::move(clear));
  }
  std::vector<std::vector<std::vector<double>>> differences;  // [quantities][leaves]
  for (const Batch& leaf : reference.leaves) {
    PLAIT_ASSIGN_OR_RETURN(const Quantities a, LeafQuantities(execution, exact, leaf, counts));
    PLAIT_ASSIGN_OR_RETURN(const Quantities b, LeafQuantities(execution, rounded, leaf, counts));
    AddLeaf(a, reference.exact);
    differences.resize(a.size());
    for (size_t q = 0; q < a.size(); ++q) {
      PLAIT_CHECK(a[q].name == b[q].name && a[q].values.size() == b[q].values.size());
      std::vector<double>& difference = differences[q].emplace_back();
      for (size_t i = 0; i < a[q].values.size(); ++i)
        difference.push_back(b[q].values[i] - a[q].values[i]);
    }
  }
  for (size_t q = 0; q < differences.size(); ++q) {
    const StepQuantity& quantity = reference.exact[q];
    reference.errors[quantity.name] = ErrorsOf(quantity.kind, differences[q]);
  }
  SetNorm(reference);
  return reference;
}

}  // namespace plait
