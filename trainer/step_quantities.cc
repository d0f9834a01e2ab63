#include "trainer/step_quantities.h"

#include <utility>

#include "absl/strings/str_cat.h"

namespace plait {
namespace {

std::vector<double> Numbers(const std::vector<int64_t>& counts) {
  return {counts.begin(), counts.end()};
}

void AppendWatch(const ActivationWatch& watch, std::vector<StepQuantity>& list) {
  const auto add = [&list](const char* what, const std::string& name, QuantityKind kind,
                           std::vector<double> values) {
    list.push_back({absl::StrCat(what, " of ", name), kind, std::move(values)});
  };
  for (const BlockActivations& block : watch.blocks) {
    add("elements", block.name, QuantityKind::kEqual, {block.elements});
    add("squares", block.name, QuantityKind::kSums, {block.square_sum});
    add("maximum", block.name, QuantityKind::kMaxima, {block.absolute_max});
  }
  for (const ExpertActivations& layer : watch.experts) {
    add("tokens of the experts", layer.name, QuantityKind::kEqual, Numbers(layer.tokens));
    add("squares of the experts", layer.name, QuantityKind::kSums, layer.square_sum);
    add("maxima of the experts", layer.name, QuantityKind::kMaxima, layer.absolute_max);
  }
}

}  // namespace

std::vector<StepQuantity> QuantitiesOf(const std::map<std::string, Tensor>& gradients,
                                       const StepResult& result) {
  std::vector<StepQuantity> list;
  for (const auto& [name, gradient] : gradients) {
    const auto values = gradient.values<double>();
    list.push_back({name, QuantityKind::kVector, {values.begin(), values.end()}});
  }
  for (const auto& [name, value] : {std::pair("loss", result.loss()),
                                    {"language-model loss", result.language_model_loss},
                                    {"balance loss", result.balance_loss},
                                    {"z loss", result.z_loss},
                                    {"activation loss", result.activation_loss},
                                    {"gradient norm", result.gradient_norm}}) {
    list.push_back({name, QuantityKind::kSums, {value}});
  }
  list.push_back({"weight sum", QuantityKind::kEqual, {result.counts.weight_sum}});
  list.push_back({"real tokens", QuantityKind::kEqual, {result.counts.real_tokens}});
  AppendWatch(result.watch, list);
  return list;
}

}  // namespace plait
