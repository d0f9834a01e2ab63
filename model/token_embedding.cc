#include "model/token_embedding.h"

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "kernels/embedding.h"

namespace plait {

TokenEmbedding::TokenEmbedding(const ModelShape& shape, DType dtype, const DeviceMesh& mesh)
    : tensor_(mesh), vocabulary_(shape.vocabulary) {
  weight_ = {{.name = "model.embed_tokens.weight",
              .shape = {shape.vocabulary, shape.model_dim},
              .dtype = dtype},
             {Initialization::Kind::kNormal, shape.initializer_range}};
  Cut(weight_.parameter, /*dim=*/0, /*segments=*/1, tensor_.rank(), tensor_.size());
}

absl::StatusOr<Tensor> TokenEmbedding::OwnIds(Execution& execution, const Tensor& tokens) const {
  // On the CPU the look-up sees for itself that ids are in the table.
  const bool is_host = execution.device().kind == DeviceKind::kCpu;
  if (tensor_.size() == 1 && is_host) return tokens;
  const auto own = static_cast<int32_t>(tensor_.Share(vocabulary_));
  const auto begin = static_cast<int32_t>(tensor_.rank()) * own;
  Tensor ids = tokens.Clone();
  for (int32_t& id : ids.values<int32_t>()) {
    if (id >= vocabulary_) {
      return absl::InvalidArgumentError(absl::StrCat(weight_.parameter.name, ": id ", id,
                                                     " is past the vocabulary of ", vocabulary_));
    }
    id = id >= begin && id < begin + own ? id - begin : -1;
  }
  return execution.ToDevice(ids);
}

absl::StatusOr<Tensor> TokenEmbedding::Forward(Execution& execution, const Tensor& tokens) const {
  const Tensor& table = weight_.parameter.value;
  PLAIT_ASSIGN_OR_RETURN(const Tensor ids, OwnIds(execution, tokens));
  Tensor y = execution.Empty(table.dtype(), {tokens.num_elements(), table.shape()[1]});
  PLAIT_RETURN_IF_ERROR(Annotate(
      EmbeddingForward(execution,
                       {.ids = ids.data<int32_t>(), .table = table.matrix(), .y = y.matrix()}),
      weight_.parameter.name));
  return tensor_.ReduceScatter(execution, y);
}

absl::Status TokenEmbedding::Backward(Execution& execution, const Tensor& dy,
                                      const Tensor& tokens) {
  PLAIT_ASSIGN_OR_RETURN(const Tensor ids, OwnIds(execution, tokens));
  PLAIT_ASSIGN_OR_RETURN(const Tensor all, tensor_.Gather(execution, dy));
  return Annotate(EmbeddingBackward(execution, {.ids = ids.data<int32_t>(),
                                                .dy = all.matrix(),
                                                .dtable = weight_.parameter.gradient.matrix()}),
                  weight_.parameter.name);
}

}  // namespace plait
