#include "model/token_log_probability_head.h"

#include <algorithm>

#include "base/status_macros.h"
#include "kernels/matmul.h"
#include "kernels/token_cross_entropy.h"

namespace plait {
namespace {

// Tokens per chunk: logits of 128 x 65,536 f32 are 32 MiB, of a small vocabulary they stay in
// cache.
constexpr int64_t kChunkTokens = 128;

}  // namespace

absl::StatusOr<Tensor> TokenLogProbabilityHead::Logits(Execution& execution,
                                                       const Tensor& x) const {
  Tensor logits =
      execution.Empty(StatisticsDType(x.dtype()), {x.shape()[0], weight_.value.shape()[0]});
  PLAIT_RETURN_IF_ERROR(Annotate(Matmul(execution, {.a = x.matrix(),
                                                    .b = weight_.value.matrix(),
                                                    .transpose_b = Transpose::kYes,
                                                    .c = logits.matrix()}),
                                 weight_.name));
  return logits;
}

absl::StatusOr<TokenLogProbabilityHead::LossGradient> TokenLogProbabilityHead::Run(
    Execution& execution, const Tensor& x, const Tensor& targets, const Tensor* coefficients) {
  const int64_t tokens = x.shape()[0], vocabulary = weight_.value.shape()[0];
  const DType statistics = StatisticsDType(x.dtype());
  LossGradient result{.log_probability = execution.Empty(statistics, {tokens}), .dx = {}};
  if (coefficients != nullptr) result.dx = execution.Empty(x.dtype(), x.shape());
  for (int64_t begin = 0; begin < tokens; begin += kChunkTokens) {
    const int64_t end = std::min(begin + kChunkTokens, tokens);
    const Tensor x_chunk = x.Slice(begin, end);
    PLAIT_ASSIGN_OR_RETURN(Tensor logits, Logits(execution, x_chunk));
    Tensor log_probability = result.log_probability.Slice(begin, end);
    TokenCrossEntropyArgs args{.logits = logits.matrix(),
                               .targets = targets.data<int32_t>() + begin,
                               .log_probability = log_probability.vector()};
    if (coefficients == nullptr) {
      PLAIT_RETURN_IF_ERROR(Annotate(TokenCrossEntropy(execution, args), weight_.name));
      continue;
    }
    Tensor dlogits =
        x.dtype() == statistics ? logits : execution.Empty(x.dtype(), {end - begin, vocabulary});
    const Tensor coefficient_chunk = coefficients->Slice(begin, end);
    args.coefficient = coefficient_chunk.vector();
    args.dlogits = dlogits.matrix();
    PLAIT_RETURN_IF_ERROR(Annotate(TokenCrossEntropy(execution, args), weight_.name));
    Tensor dx_chunk = result.dx.Slice(begin, end);
    PLAIT_RETURN_IF_ERROR(Annotate(
        Matmul(execution,
               {.a = dlogits.matrix(), .b = weight_.value.matrix(), .c = dx_chunk.matrix()}),
        weight_.name));
    PLAIT_RETURN_IF_ERROR(Annotate(Matmul(execution, {.a = dlogits.matrix(),
                                                      .b = x_chunk.matrix(),
                                                      .transpose_a = Transpose::kYes,
                                                      .c = weight_.gradient.matrix(),
                                                      .accumulate = Accumulate::kYes}),
                                   weight_.name));
  }
  return result;
}

absl::StatusOr<TokenLogProbabilityHead::LossGradient> TokenLogProbabilityHead::LossAndGradient(
    Execution& execution, const Tensor& x, const Tensor& targets, const Tensor& coefficients) {
  return Run(execution, x, targets, &coefficients);
}

absl::StatusOr<Tensor> TokenLogProbabilityHead::LogProbabilities(Execution& execution,
                                                                 const Tensor& x,
                                                                 const Tensor& targets) const {
  // Without coefficients Run writes no gradient.
  PLAIT_ASSIGN_OR_RETURN(LossGradient result, const_cast<TokenLogProbabilityHead*>(this)->Run(
                                                  execution, x, targets, nullptr));
  return result.log_probability;
}

absl::StatusOr<Tensor> TokenLogProbabilityHead::Backward(Execution& execution, const Tensor& x,
                                                         const Tensor& targets,
                                                         const Tensor& coefficients) {
  PLAIT_ASSIGN_OR_RETURN(LossGradient result, Run(execution, x, targets, &coefficients));
  return result.dx;
}

}  // namespace plait
