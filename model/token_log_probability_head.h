// Head: the log-probability of a target per token, and its gradient, in chunks of tokens so that
// the logits of all tokens never exist together. weight is [vocabulary, model_dim]: lm_head, or the
// embedding where they are tied.
//   logits[t] = x[t] weight^T;  log_probability[t] = logits[t, target] - log sum exp(logits[t])
// The tensor axis cuts the vocabulary; x and dx are then own rows, all else is of the whole
// segment: the ranks tell each other the log sum exp of their part and the target's logit. Two ways
// in: LossAndGradient when the coefficients are known first (three products in all), or
// LogProbabilities and then Backward when they depend on the log-probabilities (preference, policy
// gradient).
#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/execution.h"
#include "base/tensor.h"
#include "model/tensor_parallel.h"
#include "parallel/parameter.h"

namespace plait {

// Tokens per chunk. Logits of 128 x 65,536 f32 are 32 MiB, of a small vocabulary they stay in a
// CPU's cache; a GPU wants larger products.
constexpr int64_t HeadChunkTokens(DeviceKind device) {
  return device == DeviceKind::kCpu ? 128 : 2048;
}

class TokenLogProbabilityHead {
 public:
  // weight: this rank's part of the vocabulary; outlives the head.
  TokenLogProbabilityHead(Parameter& weight, const DeviceMesh& mesh)
      : weight_(weight), tensor_(mesh) {}

  struct LossGradient {
    Tensor log_probability;  // f32 or f64 [tokens]
    Tensor dx;               // [rows, model_dim], dtype of x: gradient of sum_t coefficient[t] *
                             // log_probability[t]
  };

  // x: [rows, model_dim]; targets: i32 [tokens], on the host; coefficients: f32 or f64 [tokens].
  // Adds to the weight's gradient.
  absl::StatusOr<LossGradient> LossAndGradient(Execution& execution, const Tensor& x,
                                               const Tensor& targets, const Tensor& coefficients);
  // f32 or f64 [tokens].
  absl::StatusOr<Tensor> LogProbabilities(Execution& execution, const Tensor& x,
                                          const Tensor& targets) const;
  // dx as above, from logits formed again. Adds to the weight's gradient.
  absl::StatusOr<Tensor> Backward(Execution& execution, const Tensor& x, const Tensor& targets,
                                  const Tensor& coefficients);
  // [tokens, own vocabulary], f32 or f64: for generation. x: [tokens, model_dim].
  absl::StatusOr<Tensor> Logits(Execution& execution, const Tensor& x) const;

 private:
  absl::StatusOr<LossGradient> Run(Execution& execution, const Tensor& x, const Tensor& targets,
                                   const Tensor* coefficients);

  // Targets counted in this rank's part of the vocabulary: outside of it where they are another's.
  // On the execution's device.
  absl::StatusOr<Tensor> OwnTargets(Execution& execution, const Tensor& targets) const;
  // Of a chunk, from every rank's part: the log sum exp over the whole vocabulary, [rows], and the
  // targets' log-probability.
  absl::StatusOr<Tensor> WholeLogSumExp(Execution& execution, const Tensor& logits,
                                        const int32_t* own_targets, Tensor& log_probability) const;

  Parameter& weight_;
  TensorParallel tensor_;
};

}  // namespace plait
