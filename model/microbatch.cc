#include "model/microbatch.h"

#include "absl/strings/str_cat.h"
#include "base/number_at.h"
#include "base/status_macros.h"

namespace plait {
absl::StatusOr<Microbatch> Microbatch::Create(const Tensor& tokens, const Tensor& targets,
                                              const Tensor& token_weight,
                                              const Tensor& document_offsets, DType dtype,
                                              const TokenPart& part) {
  const int64_t count = tokens.num_elements();
  if (targets.num_elements() != count || token_weight.num_elements() != count) {
    return absl::InvalidArgumentError(absl::StrCat("microbatch: ", count, " tokens, but ",
                                                   targets.num_elements(), " targets and ",
                                                   token_weight.num_elements(), " weights"));
  }
  Microbatch microbatch;
  PLAIT_ASSIGN_OR_RETURN(microbatch.layout, SequenceLayout::Create(tokens, document_offsets,
                                                                   StatisticsDType(dtype), part));
  const int64_t begin = microbatch.layout.segment_begin, end = begin + microbatch.layout.tokens;
  Tensor all_targets = targets.Clone();
  for (int64_t t = 0; t < count; ++t) {
    int32_t& target = all_targets.data<int32_t>()[t];
    if (target >= 0) continue;
    if (NumberAt(token_weight, t) != 0) {
      return absl::InvalidArgumentError(
          absl::StrCat("microbatch: token ", t, " has a weight but no target"));
    }
    target = 0;  // never counted; any id of the vocabulary will do
  }
  microbatch.tokens = tokens.Slice(begin, end);
  microbatch.targets = all_targets.Slice(begin, end);
  microbatch.token_weight = token_weight.Slice(begin, end);
  return microbatch;
}

double WeightedNegativeLogLikelihood(const DeviceMesh& mesh, const Microbatch& microbatch,
                                     const Tensor& log_probability) {
  // Tensor ranks know the same log-probabilities: the first of them counts.
  if (mesh.coordinate(MeshAxis::kTensor) != 0) return 0;
  double sum = 0;
  for (int64_t t = 0; t < microbatch.layout.tokens; ++t) {
    const double weight = NumberAt(microbatch.token_weight, t);
    if (weight != 0) sum -= weight * NumberAt(log_probability, t);
  }
  return sum;
}

}  // namespace plait
