#include "tools/kernel_cases.h"

#include <algorithm>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "kernels/elementwise.h"
#include "kernels/embedding.h"
#include "kernels/exact_sum.h"
#include "kernels/gated_activation.h"
#include "kernels/optimizer_update.h"
#include "kernels/rms_norm.h"
#include "tools/kernel_operands.h"

namespace plait {
namespace {

absl::Status TimeRmsNorm(KernelTimer& timer, const KernelSizes& sizes) {
  const int64_t tokens = sizes.tokens, dim = sizes.model_dim;
  const std::string shape = Describe(sizes, dim, " wide, residual");
  Operands make(timer);
  const Tensor x = make.Bf16(tokens, dim), dy = make.Bf16(tokens, dim), weight = make.F32(dim);
  Tensor residual = make.Bf16(tokens, dim), y = make.Bf16(tokens, dim);
  Tensor inverse_rms = make.F32(tokens), dweight = make.F32(dim), dr = make.Bf16(tokens, dim);
  PLAIT_RETURN_IF_ERROR(make.status());
  const KernelWork work{.bytes = Bytes({&x, &x, &x, &x})};
  PLAIT_RETURN_IF_ERROR(timer.Time<RmsNormForwardArgs>("rms_norm_forward", shape, work,
                                                       RmsNormForwardImplementations(),
                                                       {.x = x.matrix(),
                                                        .residual = residual.matrix(),
                                                        .weight = weight.vector(),
                                                        .sum = residual.matrix(),
                                                        .y = y.matrix(),
                                                        .inverse_rms = inverse_rms.vector()}));
  return timer.Time<RmsNormBackwardArgs>("rms_norm_backward", shape, work,
                                         RmsNormBackwardImplementations(),
                                         {.dy = dy.matrix(),
                                          .r = x.matrix(),
                                          .weight = weight.vector(),
                                          .inverse_rms = inverse_rms.vector(),
                                          .dr_in = dr.matrix(),
                                          .dr = dr.matrix(),
                                          .dweight = dweight.vector()});
}

absl::Status TimeGatedActivation(KernelTimer& timer, const KernelSizes& sizes) {
  const int64_t tokens = sizes.tokens, dim = sizes.hidden_dim;
  const std::string shape = Describe(sizes, dim, " wide");
  Operands make(timer);
  const Tensor gate = make.Bf16(tokens, dim), up = make.Bf16(tokens, dim);
  const Tensor dout = make.Bf16(tokens, dim);
  Tensor out = make.Bf16(tokens, dim), dgate = make.Bf16(tokens, dim);
  PLAIT_RETURN_IF_ERROR(make.status());
  PLAIT_RETURN_IF_ERROR(timer.Time<GatedActivationForwardArgs>(
      "gated_activation_forward", shape, {.bytes = Bytes({&gate, &up, &out})},
      GatedActivationForwardImplementations(),
      {.gate = gate.matrix(), .up = up.matrix(), .out = out.matrix()}));
  return timer.Time<GatedActivationBackwardArgs>(
      "gated_activation_backward", shape, {.bytes = Bytes({&gate, &up, &dout, &dgate, &out})},
      GatedActivationBackwardImplementations(),
      {.gate = gate.matrix(),
       .up = up.matrix(),
       .dout = dout.matrix(),
       .dgate = dgate.matrix(),
       .dup = out.matrix()});
}

absl::Status TimeEmbedding(KernelTimer& timer, const KernelSizes& sizes) {
  const int64_t tokens = sizes.tokens, dim = sizes.model_dim, vocabulary = sizes.vocabulary;
  const std::string shape = Describe(sizes, "vocabulary ", vocabulary, ", ", dim, " wide");
  const auto id = [&](int64_t t) { return t * 48271 % vocabulary; };
  std::vector<bool> is_there(static_cast<size_t>(vocabulary));
  for (int64_t t = 0; t < tokens; ++t) is_there[static_cast<size_t>(id(t))] = true;
  const auto rows = std::count(is_there.begin(), is_there.end(), true);
  Operands make(timer);
  const Tensor ids = make.Integers(tokens, id), table = make.Bf16(vocabulary, dim);
  Tensor y = make.Bf16(tokens, dim), dtable = make.F32(vocabulary, dim);
  PLAIT_RETURN_IF_ERROR(make.status());
  PLAIT_RETURN_IF_ERROR(timer.Time<EmbeddingForwardArgs>(
      "embedding_forward", shape, {.bytes = Bytes({&ids, &y}) + 2.0 * Product(rows, dim, 1)},
      EmbeddingForwardImplementations(),
      {.ids = ids.data<int32_t>(), .table = table.matrix(), .y = y.matrix()}));
  return timer.Time<EmbeddingBackwardArgs>(
      "embedding_backward", shape, {.bytes = Bytes({&ids, &y}) + 8.0 * Product(rows, dim, 1)},
      EmbeddingBackwardImplementations(),
      {.ids = ids.data<int32_t>(), .dy = y.matrix(), .dtable = dtable.matrix()});
}

// Gradients are summed in f32 and sent in bf16.
absl::Status TimeCast(KernelTimer& timer, const KernelSizes& sizes) {
  const int64_t rows = sizes.tokens, columns = sizes.hidden_dim;
  Operands make(timer);
  const Tensor from = make.F32(rows, columns);
  Tensor to = make.Bf16(rows, columns);
  PLAIT_RETURN_IF_ERROR(make.status());
  return timer.Time<ScaledAddArgs>("cast", absl::StrCat(rows, " x ", columns, ", f32 to bf16"),
                                   {.bytes = Bytes({&from, &to})}, ScaledAddImplementations(),
                                   {.b = from.matrix(), .out = to.matrix()});
}

// The same arrays as one parameter and as those of a model.
absl::Status TimeOptimizer(KernelTimer& timer, const KernelSizes& sizes) {
  const int64_t elements = sizes.optimizer_elements;
  Operands make(timer);
  const Tensor gradient = make.F32(elements);
  Tensor parameter = make.F32(elements), compute = make.Bf16(elements);
  Tensor first = make.F32(elements), second = make.NotNegativeF32(elements);
  PLAIT_RETURN_IF_ERROR(make.status());
  for (const int64_t parameters : {1, 512}) {
    const std::string shape = absl::StrCat(elements, " elements of ", parameters,
                                           parameters == 1 ? " parameter" : " parameters");
    std::vector<AdamWTensor> updates;
    std::vector<SquaredNormTensor> norms;
    Tensor tile_sums = make.F64(SquaredNormTiles(elements) + parameters);
    PLAIT_RETURN_IF_ERROR(make.status());
    int64_t tile = 0;
    for (int64_t i = 0; i < parameters; ++i) {
      const int64_t begin = elements * i / parameters, end = elements * (i + 1) / parameters;
      const int64_t tiles = SquaredNormTiles(end - begin);
      norms.push_back({.name = "part",
                       .x = gradient.Slice(begin, end).vector(),
                       .tile_sums = tile_sums.Slice(tile, tile + tiles).vector()});
      tile += tiles;
      updates.push_back({.name = "part",
                         .parameter = parameter.Slice(begin, end).vector(),
                         .gradient = gradient.Slice(begin, end).vector(),
                         .first_moment = first.Slice(begin, end).vector(),
                         .second_moment = second.Slice(begin, end).vector(),
                         .compute = compute.Slice(begin, end).vector()});
    }
    PLAIT_RETURN_IF_ERROR(timer.Time<SquaredNormArgs>(
        "squared_norm", shape + ", f32", {.bytes = Bytes({&gradient, &tile_sums})},
        SquaredNormImplementations(), {.tensors = norms}));
    if (parameters == 1) {
      Tensor words = make.I64(NumExactSums(tile_sums.num_elements()) * kExactSumWords);
      PLAIT_RETURN_IF_ERROR(make.status());
      PLAIT_RETURN_IF_ERROR(timer.Time<ExactSumsArgs>(
          "exact_sums", absl::StrCat(tile_sums.num_elements(), " sums, f64"),
          {.bytes = Bytes({&tile_sums, &words})}, ExactSumsImplementations(),
          {.x = std::as_const(tile_sums).vector(), .words = words.vector()}));
    }
    PLAIT_RETURN_IF_ERROR(timer.Time<AdamWUpdateArgs>(
        "adamw_update", shape + ", f32 to bf16",
        {.bytes = Bytes(
             {&parameter, &parameter, &gradient, &first, &first, &second, &second, &compute})},
        AdamWUpdateImplementations(), {.tensors = updates, .learning_rate = 1e-4}));
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status TimeKernels(KernelTimer& timer, const KernelSizes& sizes) {
  for (const auto time :
       {TimeMatmul, TimeGroupedMatmul, TimeExpertRouting, TimeRmsNorm, TimeGatedActivation,
        TimeWeightedActivation, TimeRotaryEmbedding, TimeCausalConvolution, TimeSelectiveScan,
        TimeAttention, TimeEmbedding, TimeLinearCrossEntropy, TimeCast, TimeOptimizer}) {
    PLAIT_RETURN_IF_ERROR(time(timer, sizes));
    // Not one of them needs the others' memory.
    PLAIT_RETURN_IF_ERROR(timer.execution().compute().Synchronize());
    timer.execution().allocator().Trim();
  }
  return absl::OkStatus();
}

}  // namespace plait
