// Head: the log-probability of a target per token, and its gradient, in chunks of tokens so that
// the logits of all tokens never exist together. weight is [vocabulary, model_dim]: lm_head, or the
// embedding where they are tied.
//   logits[t] = x[t] weight^T;  log_probability[t] = logits[t, target] - log sum exp(logits[t])
// Two ways in: LossAndGradient when the coefficients are known first (three products in all), or
// LogProbabilities and then Backward when they depend on the log-probabilities (preference, policy
// gradient).
#pragma once

#include <cstdint>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/execution.h"
#include "base/tensor.h"
#include "parallel/parameter.h"

namespace plait {

class TokenLogProbabilityHead {
 public:
  // weight: outlives the head.
  explicit TokenLogProbabilityHead(Parameter& weight) : weight_(weight) {}

  struct LossGradient {
    Tensor log_probability;  // f32 or f64 [tokens]
    Tensor dx;               // [tokens, model_dim], dtype of x: gradient of sum_t coefficient[t] *
                             // log_probability[t]
  };

  // x: [tokens, model_dim]; targets: i32 [tokens]; coefficients: f32 or f64 [tokens]. Adds to the
  // weight's gradient.
  absl::StatusOr<LossGradient> LossAndGradient(Execution& execution, const Tensor& x,
                                               const Tensor& targets, const Tensor& coefficients);
  // f32 or f64 [tokens].
  absl::StatusOr<Tensor> LogProbabilities(Execution& execution, const Tensor& x,
                                          const Tensor& targets) const;
  // dx as above, from logits formed again. Adds to the weight's gradient.
  absl::StatusOr<Tensor> Backward(Execution& execution, const Tensor& x, const Tensor& targets,
                                  const Tensor& coefficients);
  // [tokens, vocabulary], f32 or f64: for generation.
  absl::StatusOr<Tensor> Logits(Execution& execution, const Tensor& x) const;

 private:
  absl::StatusOr<LossGradient> Run(Execution& execution, const Tensor& x, const Tensor& targets,
                                   const Tensor* coefficients);

  Parameter& weight_;
};

}  // namespace plait
