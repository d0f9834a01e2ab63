#include "model/token_embedding.h"

#include "base/status_macros.h"
#include "kernels/embedding.h"

namespace plait {

TokenEmbedding::TokenEmbedding(const ModelShape& shape, DType dtype) {
  weight_ = {{.name = "model.embed_tokens.weight",
              .shape = {shape.vocabulary, shape.model_dim},
              .dtype = dtype},
             {Initialization::Kind::kNormal, shape.initializer_range}};
}

absl::StatusOr<Tensor> TokenEmbedding::Forward(Execution& execution, const Tensor& tokens) const {
  const Tensor& table = weight_.parameter.value;
  Tensor y = execution.Empty(table.dtype(), {tokens.num_elements(), table.shape()[1]});
  PLAIT_RETURN_IF_ERROR(Annotate(
      EmbeddingForward(execution,
                       {.ids = tokens.data<int32_t>(), .table = table.matrix(), .y = y.matrix()}),
      weight_.parameter.name));
  return y;
}

absl::Status TokenEmbedding::Backward(Execution& execution, const Tensor& dy,
                                      const Tensor& tokens) {
  return Annotate(EmbeddingBackward(execution, {.ids = tokens.data<int32_t>(),
                                                .dy = dy.matrix(),
                                                .dtable = weight_.parameter.gradient.matrix()}),
                  weight_.parameter.name);
}

}  // namespace plait
