#include "model/token_log_probability_head.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "kernels/matmul.h"
#include "kernels/token_cross_entropy.h"
#include "kernels/vocabulary_merge.h"

namespace plait {
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

absl::StatusOr<Tensor> TokenLogProbabilityHead::WholeLogSumExp(Execution& execution,
                                                               const Tensor& logits,
                                                               const int32_t* own_targets,
                                                               Tensor& log_probability) const {
  const int64_t rows = logits.shape()[0];
  Tensor own = execution.Empty(logits.dtype(), {2, rows});
  Tensor log_sum_exp = own.Flat(0, {rows}), target_logit = own.Flat(rows, {rows});
  PLAIT_RETURN_IF_ERROR(Annotate(
      TokenCrossEntropy(execution, TokenCrossEntropyArgs{.logits = logits.matrix(),
                                                         .targets = own_targets,
                                                         .log_sum_exp = log_sum_exp.vector(),
                                                         .target_logit = target_logit.vector()}),
      weight_.name));
  PLAIT_ASSIGN_OR_RETURN(const Tensor all, tensor_.Gather(execution, own));
  Tensor whole = execution.Empty(logits.dtype(), {rows});
  PLAIT_RETURN_IF_ERROR(Annotate(
      VocabularyMerge(execution, {.parts = all.Reshape({2 * tensor_.size(), rows}).matrix(),
                                  .log_sum_exp = whole.vector(),
                                  .log_probability = log_probability.vector()}),
      weight_.name));
  return whole;
}

absl::StatusOr<TokenLogProbabilityHead::LossGradient> TokenLogProbabilityHead::Run(
    Execution& execution, const Tensor& rows, const Tensor& targets, const Tensor* coefficients) {
  PLAIT_ASSIGN_OR_RETURN(const Tensor x, tensor_.Gather(execution, rows));
  const int64_t tokens = x.shape()[0], vocabulary = weight_.value.shape()[0];
  const DType statistics = StatisticsDType(x.dtype());
  LossGradient result{.log_probability = execution.Empty(statistics, {tokens}), .dx = {}};
  Tensor dx = coefficients != nullptr ? execution.Empty(x.dtype(), x.shape()) : Tensor();
  PLAIT_ASSIGN_OR_RETURN(const Tensor own_targets, OwnTargets(execution, targets));
  const int64_t chunk = HeadChunkTokens(execution.device().kind);
  for (int64_t begin = 0; begin < tokens; begin += chunk) {
    const int64_t end = std::min(begin + chunk, tokens);
    const Tensor x_chunk = x.Slice(begin, end);
    PLAIT_ASSIGN_OR_RETURN(Tensor logits, Logits(execution, x_chunk));
    Tensor log_probability = result.log_probability.Slice(begin, end);
    TokenCrossEntropyArgs args{.logits = logits.matrix(),
                               .targets = own_targets.data<int32_t>() + begin};
    Tensor log_sum_exp;
    if (tensor_.size() > 1) {
      PLAIT_ASSIGN_OR_RETURN(log_sum_exp,
                             WholeLogSumExp(execution, logits, args.targets, log_probability));
      args.given_log_sum_exp = log_sum_exp.vector();
      if (coefficients == nullptr) continue;
    } else {
      args.log_probability = log_probability.vector();
    }
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
    Tensor dx_chunk = dx.Slice(begin, end);
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
  if (coefficients != nullptr) {
    PLAIT_ASSIGN_OR_RETURN(result.dx, tensor_.ReduceScatter(execution, dx));
  }
  return result;
}

absl::StatusOr<Tensor> TokenLogProbabilityHead::OwnTargets(Execution& execution,
                                                           const Tensor& targets) const {
  Tensor own = targets.Clone();
  const auto begin = static_cast<int32_t>(tensor_.rank() * weight_.shape[0]);
  for (int32_t& target : own.values<int32_t>()) {
    if (target >= tensor_.size() * weight_.shape[0]) {
      return absl::InvalidArgumentError(absl::StrCat(weight_.name, ": target ", target,
                                                     " is past the vocabulary of ",
                                                     tensor_.size() * weight_.shape[0]));
    }
    target -= begin;
  }
  return execution.ToDevice(own);
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
