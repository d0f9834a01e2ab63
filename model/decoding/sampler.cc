#include "model/decoding/sampler.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/exit_code.h"
#include "base/number_at.h"
#include "base/random.h"

namespace plait {

absl::Status ValidateSamplerOptions(const SamplerOptions& options) {
  if (!(options.temperature >= 0) || !std::isfinite(options.temperature)) {
    return absl::InvalidArgumentError(
        absl::StrCat("temperature: expected 0 or more, got ", options.temperature));
  }
  if (options.top_k < 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("top-k: expected 0 (all) or more, got ", options.top_k));
  }
  if (!(options.top_p > 0 && options.top_p <= 1)) {
    return absl::InvalidArgumentError(
        absl::StrCat("top-p: expected above 0 and at most 1, got ", options.top_p));
  }
  return absl::OkStatus();
}

absl::StatusOr<int32_t> SampleToken(const Tensor& logits, const SamplerOptions& options,
                                    int64_t position) {
  const int64_t vocabulary = logits.num_elements();
  const auto at = [&](int32_t id) { return NumberAt(logits, id); };
  for (int32_t id = 0; id < vocabulary; ++id) {
    if (std::isfinite(at(id))) continue;
    return WithExitCode(
        absl::DataLossError(absl::StrCat("token ", position, " of the text: the logit of id ", id,
                                         " is ", at(id),
                                         "; the weights have diverged, or are too large for the "
                                         "precision (try --set trainer.precision=F32)")),
        ExitCode::kNumericFault);
  }
  std::vector<int32_t> order(static_cast<size_t>(vocabulary));
  std::iota(order.begin(), order.end(), 0);
  const auto before = [&](int32_t a, int32_t b) { return at(a) != at(b) ? at(a) > at(b) : a < b; };
  if (options.temperature == 0) return *std::min_element(order.begin(), order.end(), before);
  std::sort(order.begin(), order.end(), before);
  if (options.top_k > 0 && options.top_k < vocabulary)
    order.resize(static_cast<size_t>(options.top_k));

  std::vector<double> probability(order.size());
  double sum = 0;
  for (size_t i = 0; i < order.size(); ++i) {
    probability[i] = std::exp((at(order[i]) - at(order[0])) / options.temperature);
    sum += probability[i];
  }
  double kept = 0;
  size_t count = 0;
  while (count < order.size() && (count == 0 || kept < options.top_p * sum))
    kept += probability[count++];

  const RandomKey key(options.seed, RandomPurpose::kGeneration);
  double left = key.Uniform(static_cast<uint64_t>(position)) * kept;
  for (size_t i = 0; i < count; ++i) {
    left -= probability[i];
    if (left < 0) return order[i];
  }
  return order[count - 1];
}

}  // namespace plait
