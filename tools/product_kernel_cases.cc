#include <string>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "kernels/matmul.h"
#include "kernels/token_cross_entropy.h"
#include "tools/kernel_cases.h"
#include "tools/kernel_operands.h"

namespace plait {

// in_proj of a Mamba block: forward, gradient of its input, gradient of its weight.
absl::Status TimeMatmul(KernelTimer& timer, const KernelSizes& sizes) {
  const int64_t m = sizes.tokens, k = sizes.model_dim, n = 2 * sizes.channels;
  const std::string shape = Describe(sizes, k, " to ", n);
  Operands make(timer);
  Tensor x = make.Bf16(m, k), y = make.Bf16(m, n), dw = make.F32(n, k);
  const Tensor w = make.Bf16(n, k);
  PLAIT_RETURN_IF_ERROR(make.status());
  const KernelWork work{.bytes = Bytes({&x, &w, &y}), .flops = 2.0 * Product(m, n, k)};
  PLAIT_RETURN_IF_ERROR(timer.Time<MatmulArgs>(
      "matmul", shape, work, MatmulImplementations(),
      {.a = x.matrix(), .b = w.matrix(), .transpose_b = Transpose::kYes, .c = y.matrix()}));
  PLAIT_RETURN_IF_ERROR(timer.Time<MatmulArgs>(
      "matmul_weight_gradient", shape, {.bytes = Bytes({&x, &y, &dw, &dw}), .flops = work.flops},
      MatmulImplementations(),
      {.a = y.matrix(),
       .b = x.matrix(),
       .transpose_a = Transpose::kYes,
       .c = dw.matrix(),
       .accumulate = Accumulate::kYes}));
  return timer.Time<MatmulArgs>("matmul_dgrad", shape, work, MatmulImplementations(),
                                {.a = y.matrix(), .b = w.matrix(), .c = x.matrix()});
}

// A chunk of the head: logits, their gradient, and the gradients of its input and its weight; the
// pass over logits by itself, too.
absl::Status TimeLinearCrossEntropy(KernelTimer& timer, const KernelSizes& sizes) {
  const int64_t rows = sizes.vocabulary_rows, vocabulary = sizes.vocabulary;
  const int64_t dim = sizes.model_dim;
  Operands make(timer);
  Tensor logits = make.F32(rows, vocabulary), dlogits = make.Bf16(rows, vocabulary);
  const Tensor coefficient = make.F32(rows);
  const Tensor targets = make.Integers(rows, [&](int64_t t) { return t * 48271 % vocabulary; });
  Tensor log_probability = make.F32(rows);
  PLAIT_RETURN_IF_ERROR(make.status());
  const TokenCrossEntropyArgs cross_entropy{.logits = logits.matrix(),
                                            .targets = targets.data<int32_t>(),
                                            .log_probability = log_probability.vector(),
                                            .coefficient = coefficient.vector(),
                                            .dlogits = dlogits.matrix()};
  PLAIT_RETURN_IF_ERROR(timer.Time<TokenCrossEntropyArgs>(
      "token_cross_entropy",
      absl::StrCat(rows, " tokens, vocabulary ", vocabulary, ", f32 to bf16"),
      {.bytes = Bytes({&logits, &dlogits})}, TokenCrossEntropyImplementations(), cross_entropy));
  const Tensor x = make.Bf16(rows, dim), w = make.Bf16(vocabulary, dim);
  Tensor dx = make.Bf16(rows, dim), dw = make.F32(vocabulary, dim);
  PLAIT_RETURN_IF_ERROR(make.status());
  Execution& execution = timer.execution();
  return timer.TimeTogether(
      "linear_cross_entropy",
      absl::StrCat(rows, " tokens, ", dim, " to vocabulary ", vocabulary, ", bf16"),
      {.bytes = Bytes({&x, &w, &w, &dx, &dw, &dw}), .flops = 6.0 * Product(rows, vocabulary, dim)},
      [&]() -> absl::Status {
        PLAIT_RETURN_IF_ERROR(Matmul(execution, {.a = x.matrix(),
                                                 .b = w.matrix(),
                                                 .transpose_b = Transpose::kYes,
                                                 .c = logits.matrix()}));
        PLAIT_RETURN_IF_ERROR(TokenCrossEntropy(execution, cross_entropy));
        PLAIT_RETURN_IF_ERROR(
            Matmul(execution, {.a = dlogits.matrix(), .b = w.matrix(), .c = dx.matrix()}));
        return Matmul(execution, {.a = dlogits.matrix(),
                                  .b = x.matrix(),
                                  .transpose_a = Transpose::kYes,
                                  .c = dw.matrix(),
                                  .accumulate = Accumulate::kYes});
      });
}

}  // namespace plait
