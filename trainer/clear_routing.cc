#include "trainer/clear_routing.h"

#include <algorithm>
#include <cmath>
#include <functional>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"

namespace plait {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr double kErrors = 4;
constexpr double kSmallestGap = 0.01;

void AppendLayer(const SequenceLayout& layout, const Routing& layer, MicrobatchRouting& routing) {
  const Tensor probabilities = layer.probabilities.Converted(DType::kF64);
  const Tensor real = layout.real.Converted(DType::kF64);
  const int64_t experts = probabilities.shape()[1], chosen = layer.choices.shape()[1];
  const auto all = probabilities.values<double>();
  routing.probabilities.emplace_back(all.begin(), all.end());
  std::vector<double>& gaps =
      routing.gaps.emplace_back(static_cast<size_t>(layout.rows), kInfinity);
  for (int64_t t = 0; t < layout.rows; ++t) {
    if (real.data<double>()[t] == 0 || chosen == experts) continue;
    std::vector<double> sorted(all.data() + t * experts, all.data() + (t + 1) * experts);
    std::sort(sorted.begin(), sorted.end(), std::greater<>());
    gaps[static_cast<size_t>(t)] = sorted[chosen - 1] - sorted[chosen];
  }
}

bool IsClear(const MicrobatchRouting& exact, const MicrobatchRouting& rounded, size_t token) {
  for (size_t layer = 0; layer < exact.gaps.size(); ++layer) {
    const std::vector<double>& a = exact.probabilities[layer];
    const std::vector<double>& b = rounded.probabilities[layer];
    const size_t experts = a.size() / exact.gaps[layer].size();
    double error = 0;
    for (size_t i = token * experts; i < (token + 1) * experts; ++i)
      error = std::max(error, std::abs(a[i] - b[i]));
    if (exact.gaps[layer][token] < kErrors * error + kSmallestGap) return false;
  }
  return true;
}

}  // namespace

double MicrobatchRouting::gap() const {
  double smallest = kInfinity;
  for (const std::vector<double>& layer : gaps)
    for (const double gap : layer) smallest = std::min(smallest, gap);
  return smallest;
}

absl::StatusOr<MicrobatchRouting> Route(Execution& execution, ModelRuntime& model,
                                        const Batch& batch) {
  PLAIT_ASSIGN_OR_RETURN(const Microbatch microbatch,
                         Microbatch::Create(batch.tokens, batch.targets, batch.token_weight,
                                            batch.document_offsets, model.model->dtype()));
  LanguageModel::Saved saved;
  PLAIT_RETURN_IF_ERROR(model.model
                            ->Forward(execution, *model.sharder, microbatch.tokens,
                                      microbatch.layout, /*caches=*/nullptr, &saved)
                            .status());
  MicrobatchRouting routing;
  for (const Routing& layer : saved.stack.routings)
    if (layer.choices) AppendLayer(microbatch.layout, layer, routing);
  return routing;
}

absl::StatusOr<Batch> WithClearRouting(Execution& execution, ModelRuntime& exact,
                                       ModelRuntime& rounded, const Batch& batch) {
  Batch clear = batch;
  clear.tokens = batch.tokens.Clone();
  const auto tokens = clear.tokens.values<int32_t>();
  const auto documents = batch.document_offsets.values<int32_t>();
  const int64_t vocabulary = exact.model->shape().vocabulary;
  std::vector<int64_t> tried(tokens.size(), 0);
  for (bool changed = true; changed;) {
    changed = false;
    PLAIT_ASSIGN_OR_RETURN(const MicrobatchRouting a, Route(execution, exact, clear));
    PLAIT_ASSIGN_OR_RETURN(const MicrobatchRouting b, Route(execution, rounded, clear));
    for (size_t d = 0; d + 1 < documents.size(); ++d) {
      auto t = static_cast<size_t>(documents[d]);
      const auto end = static_cast<size_t>(documents[d + 1]);
      while (t < end && (tokens[t] == kPaddingToken || IsClear(a, b, t))) ++t;
      if (t == end) continue;
      if (++tried[t] == vocabulary) {
        return absl::FailedPreconditionError(absl::StrCat(
            "token ", t, " of a microbatch: none of ", vocabulary,
            " tokens has clear experts at bf16; choose another seed for the checked model"));
      }
      tokens[t] = static_cast<int32_t>((tokens[t] + 1) % vocabulary);
      changed = true;
    }
  }
  return clear;
}

}  // namespace plait
