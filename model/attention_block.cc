#include "model/attention_block.h"

#include <cmath>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "kernels/attention.h"
#include "kernels/rotary_embedding.h"

namespace plait {
namespace {

Initialization Normal(const ModelShape& shape) {
  return {Initialization::Kind::kNormal, shape.initializer_range};
}

// Appends rows to the cache. OutOfRange where it is full.
absl::Status Append(Execution& execution, Tensor& cache, int64_t length, const Tensor& rows) {
  const int64_t added = rows.shape()[0];
  if (length + added > cache.shape()[0]) {
    return absl::OutOfRangeError(absl::StrCat("cache of ", cache.shape()[0], " tokens is full"));
  }
  Tensor slot = cache.Slice(length, length + added);
  return execution.Copy(rows, slot);
}

}  // namespace

AttentionBlock::AttentionBlock(const ModelShape& shape, const std::string& layer_name, DType dtype,
                               const DeviceMesh& mesh)
    : name_(layer_name + ".self_attn"),
      keep_output_(shape.activation_loss_coefficient > 0 && shape.activation_loss_on_block_output),
      tensor_(mesh),
      heads_(tensor_.Share(shape.heads)),
      kv_heads_(tensor_.Share(shape.kv_heads)),
      head_dim_(shape.head_dim),
      rotary_theta_(shape.rotary_theta),
      attention_(mesh.axis(MeshAxis::kContext), shape.context_exchange, Heads()),
      norm_(layer_name + ".input_layernorm", shape.model_dim, shape.rms_norm_epsilon, dtype),
      query_(name_ + ".q_proj", shape.heads * head_dim_, shape.model_dim, Bias::kNo, dtype,
             Normal(shape), tensor_.Column()),
      key_(name_ + ".k_proj", shape.kv_heads * head_dim_, shape.model_dim, Bias::kNo, dtype,
           Normal(shape), tensor_.Column()),
      value_(name_ + ".v_proj", shape.kv_heads * head_dim_, shape.model_dim, Bias::kNo, dtype,
             Normal(shape), tensor_.Column()),
      output_(name_ + ".o_proj", shape.model_dim, shape.heads * head_dim_, Bias::kNo, dtype,
              Normal(shape), tensor_.Row()) {}

std::vector<LayerParameter*> AttentionBlock::parameters() {
  std::vector<LayerParameter*> parameters;
  norm_.AppendParameters(parameters);
  for (Linear* linear : {&query_, &key_, &value_, &output_}) linear->AppendParameters(parameters);
  return parameters;
}

AttentionLayout AttentionBlock::Heads() const {
  return {.heads = heads_,
          .kv_heads = kv_heads_,
          .head_dim = head_dim_,
          .scale = 1.0 / std::sqrt(static_cast<double>(head_dim_))};
}

absl::Status AttentionBlock::Rotate(Execution& execution, const SequenceLayout& layout, Tensor& x,
                                    int64_t heads, bool forward) const {
  if (rotary_theta_ == 0) return absl::OkStatus();
  return Annotate(RotaryEmbedding(execution, {.x = x.matrix(),
                                              .positions = layout.positions.data<int32_t>(),
                                              .heads = heads,
                                              .head_dim = head_dim_,
                                              .theta = rotary_theta_,
                                              .direction = forward ? RotaryDirection::kForward
                                                                   : RotaryDirection::kBackward}),
                  name_);
}

absl::StatusOr<Tensor> AttentionBlock::AttendToCache(Execution& execution, BlockCache& cache,
                                                     const Tensor& q, const Tensor& k,
                                                     const Tensor& v) const {
  PLAIT_RETURN_IF_ERROR(Annotate(Append(execution, cache.keys, cache.length, k), name_));
  PLAIT_RETURN_IF_ERROR(Annotate(Append(execution, cache.values, cache.length, v), name_));
  cache.length += q.shape()[0];
  const int32_t query_offsets[2] = {0, static_cast<int32_t>(q.shape()[0])};
  const int32_t key_offsets[2] = {0, static_cast<int32_t>(cache.length)};
  AttentionLayout layout = Heads();
  layout.documents = 1;
  layout.query_offsets = query_offsets;
  layout.key_offsets = key_offsets;
  Tensor attended = execution.Empty(q.dtype(), q.shape());
  PLAIT_RETURN_IF_ERROR(
      Annotate(AttentionForward(execution, {.layout = layout,
                                            .q = q.matrix(),
                                            .k = cache.keys.Slice(0, cache.length).matrix(),
                                            .v = cache.values.Slice(0, cache.length).matrix(),
                                            .out = attended.matrix()}),
               name_));
  return attended;
}

absl::Status AttentionBlock::Forward(Execution& execution, const BlockForwardContext& context,
                                     ResidualStream& stream, std::unique_ptr<Saved>* saved) {
  auto keep = saved != nullptr ? std::make_unique<AttentionSaved>() : nullptr;
  PLAIT_ASSIGN_OR_RETURN(const Tensor rows,
                         norm_.Forward(execution, context, stream, keep ? &keep->norm : nullptr));
  PLAIT_ASSIGN_OR_RETURN(const Tensor y, tensor_.Gather(execution, rows));
  const SequenceLayout& layout = *context.layout;
  const int64_t tokens = layout.tokens;
  const DType dtype = y.dtype();
  Tensor q = execution.Empty(dtype, {tokens, heads_ * head_dim_});
  Tensor k = execution.Empty(dtype, {tokens, kv_heads_ * head_dim_});
  Tensor v = execution.Empty(dtype, {tokens, kv_heads_ * head_dim_});
  PLAIT_RETURN_IF_ERROR(query_.Forward(execution, y.matrix(), q.matrix()));
  PLAIT_RETURN_IF_ERROR(key_.Forward(execution, y.matrix(), k.matrix()));
  PLAIT_RETURN_IF_ERROR(value_.Forward(execution, y.matrix(), v.matrix()));
  PLAIT_RETURN_IF_ERROR(Rotate(execution, layout, q, heads_, true));
  PLAIT_RETURN_IF_ERROR(Rotate(execution, layout, k, kv_heads_, true));

  Tensor attended;
  if (context.cache != nullptr) {
    PLAIT_ASSIGN_OR_RETURN(attended, AttendToCache(execution, *context.cache, q, k, v));
  } else {
    auto all = attention_.Forward(execution, layout.microbatch_document_offsets, q, k, v,
                                  keep ? &keep->attention : nullptr);
    PLAIT_RETURN_IF_ERROR(Annotate(all.status(), name_));
    attended = *std::move(all);
  }

  Tensor partial = execution.Empty(dtype, y.shape());
  PLAIT_RETURN_IF_ERROR(output_.Forward(execution, attended.matrix(), partial.matrix()));
  PLAIT_ASSIGN_OR_RETURN(stream.delta, tensor_.ReduceScatter(execution, partial));
  if (keep) {
    keep->residual_sum = stream.residual;
    if (keep_output_) keep->output = stream.delta;
    keep->attended = std::move(attended);
    *saved = std::move(keep);
  }
  return absl::OkStatus();
}

absl::StatusOr<Tensor> AttentionBlock::Backward(Execution& execution,
                                                const BlockBackwardContext& context,
                                                const Tensor& gradient, const Saved& base) {
  const auto& saved = static_cast<const AttentionSaved&>(base);
  const SequenceLayout& layout = *context.layout;
  const DType dtype = gradient.dtype();
  PLAIT_ASSIGN_OR_RETURN(const Tensor drows,
                         norm_.OutputGradient(execution, context, gradient, saved.output));
  PLAIT_ASSIGN_OR_RETURN(const Tensor dout, tensor_.Gather(execution, drows));
  PLAIT_RETURN_IF_ERROR(output_.WeightGradient(execution, dout.matrix(), saved.attended.matrix()));
  Tensor dattended = execution.Empty(dtype, saved.attended.shape());
  PLAIT_RETURN_IF_ERROR(output_.InputGradient(execution, dout.matrix(), dattended.matrix()));

  auto gradients = attention_.Backward(execution, layout.microbatch_document_offsets, dattended,
                                       saved.attention);
  PLAIT_RETURN_IF_ERROR(Annotate(gradients.status(), name_));
  auto& [dq, dk, dv] = *gradients;
  PLAIT_RETURN_IF_ERROR(Rotate(execution, layout, dq, heads_, false));
  PLAIT_RETURN_IF_ERROR(Rotate(execution, layout, dk, kv_heads_, false));

  PLAIT_ASSIGN_OR_RETURN(const Tensor rows, norm_.Recompute(execution, saved.residual_sum));
  PLAIT_ASSIGN_OR_RETURN(const Tensor y, tensor_.Gather(execution, rows));
  Tensor dpartial = execution.Empty(StatisticsDType(dtype), y.shape());
  Accumulate accumulate = Accumulate::kNo;
  for (auto [linear, dprojected] : {std::pair{&query_, &dq}, {&key_, &dk}, {&value_, &dv}}) {
    const ConstMatrixView d = dprojected->matrix();
    PLAIT_RETURN_IF_ERROR(linear->WeightGradient(execution, d, y.matrix()));
    PLAIT_RETURN_IF_ERROR(linear->InputGradient(execution, d, dpartial.matrix(), accumulate));
    accumulate = Accumulate::kYes;
  }
  PLAIT_ASSIGN_OR_RETURN(const Tensor dy, tensor_.ReduceScatter(execution, dpartial));
  return norm_.Backward(execution, context, gradient, dy, saved.residual_sum, saved.norm);
}

}  // namespace plait
