#include "model/mamba_block.h"

#include <cmath>
#include <utility>

#include "base/status_macros.h"
#include "kernels/causal_convolution.h"
#include "kernels/elementwise.h"
#include "kernels/selective_scan.h"

namespace plait {
namespace {

using Kind = Initialization::Kind;

Initialization Normal(const ModelShape& shape) { return {Kind::kNormal, shape.initializer_range}; }

Initialization Uniform(const ModelShape& shape, int64_t fan_in) {
  if (shape.dt_initialization == DtInitialization::kReference) return Normal(shape);
  return {Kind::kUniform, 1.0 / std::sqrt(static_cast<double>(fan_in))};
}

Bias ProjectionBias(const ModelShape& shape) {
  return shape.projection_bias ? Bias::kYes : Bias::kNo;
}

}  // namespace

// dt_proj's bias is applied inside the scan, so the Linear has none and the block owns it.
MambaBlock::MambaBlock(const ModelShape& shape, const std::string& layer_name, DType dtype,
                       const DeviceMesh& mesh)
    : name_(layer_name + ".mamba"),
      keep_output_(shape.activation_loss_coefficient > 0 && shape.activation_loss_on_block_output),
      tensor_(mesh),
      segments_(mesh),
      channels_(tensor_.Share(shape.channels)),
      state_dim_(shape.state_dim),
      dt_rank_(shape.dt_rank),
      conv_width_(shape.conv_width),
      norm_(layer_name + ".input_layernorm", shape.model_dim, shape.rms_norm_epsilon, dtype),
      in_(name_ + ".in_proj", 2 * shape.channels, shape.model_dim, ProjectionBias(shape), dtype,
          Normal(shape), tensor_.Column(/*segments=*/2)),
      x_(name_ + ".x_proj", dt_rank_ + 2 * state_dim_, shape.channels, Bias::kNo, dtype,
         Normal(shape), tensor_.Row()),
      dt_(name_ + ".dt_proj", shape.channels, dt_rank_, Bias::kNo, dtype, Uniform(shape, dt_rank_),
          tensor_.Column()),
      out_(name_ + ".out_proj", shape.model_dim, shape.channels, ProjectionBias(shape), dtype,
           Normal(shape), tensor_.Row()),
      dt_norm_(name_ + ".dt_layernorm", dt_rank_, shape.rms_norm_epsilon, dtype),
      b_norm_(name_ + ".b_layernorm", state_dim_, shape.rms_norm_epsilon, dtype),
      c_norm_(name_ + ".c_layernorm", state_dim_, shape.rms_norm_epsilon, dtype) {
  const DType f32 = StatisticsDType(dtype);
  conv_weight_ = {{.name = name_ + ".conv1d.weight",
                   .shape = {shape.channels, 1, shape.conv_width},
                   .dtype = f32},
                  Uniform(shape, shape.conv_width)};
  if (shape.conv_bias) {
    conv_bias_ = {{.name = name_ + ".conv1d.bias", .shape = {shape.channels}, .dtype = f32},
                  shape.dt_initialization == DtInitialization::kReference
                      ? Initialization{}
                      : Uniform(shape, shape.conv_width)};
  }
  a_log_ = {{.name = name_ + ".A_log", .shape = {shape.channels, state_dim_}, .dtype = f32},
            {Kind::kLogStateIndex, 0}};
  d_ = {{.name = name_ + ".D", .shape = {shape.channels}, .dtype = f32}, {Kind::kConstant, 1.0}};
  dt_bias_ = {{.name = name_ + ".dt_proj.bias", .shape = {shape.channels}, .dtype = f32},
              shape.dt_initialization == DtInitialization::kReference
                  ? Initialization{}
                  : Initialization{Kind::kDtBias, 0}};
  for (LayerParameter* cut : {&conv_weight_, &conv_bias_, &a_log_, &d_, &dt_bias_}) {
    if (cut->parameter.shape.rank() == 0) continue;  // absent
    Cut(cut->parameter, /*dim=*/0, /*segments=*/1, tensor_.rank(), tensor_.size());
  }
}

std::vector<LayerParameter*> MambaBlock::parameters() {
  std::vector<LayerParameter*> parameters;
  norm_.AppendParameters(parameters);
  in_.AppendParameters(parameters);
  parameters.push_back(&conv_weight_);
  if (conv_bias_.parameter.shape.rank() > 0) parameters.push_back(&conv_bias_);
  x_.AppendParameters(parameters);
  dt_.AppendParameters(parameters);
  for (LayerParameter* parameter : {&dt_bias_, &a_log_, &d_}) parameters.push_back(parameter);
  for (RmsNorm* norm : {&dt_norm_, &b_norm_, &c_norm_}) norm->AppendParameters(parameters);
  out_.AppendParameters(parameters);
  return parameters;
}

std::vector<MambaBlock::Part> MambaBlock::Parts() {
  return {{&dt_norm_, 0, dt_rank_},
          {&b_norm_, dt_rank_, state_dim_},
          {&c_norm_, dt_rank_ + state_dim_, state_dim_}};
}

ConstVectorView MambaBlock::conv_bias() const {
  const Tensor& bias = conv_bias_.parameter.value;
  return bias ? bias.vector() : ConstVectorView();
}

absl::StatusOr<Tensor> MambaBlock::NormalizedSelection(Execution& execution,
                                                       const Tensor& selection,
                                                       Tensor* inverse_rms) {
  Tensor normalized = execution.Empty(selection.dtype(), selection.shape());
  int64_t i = 0;
  for (const Part& part : Parts()) {
    VectorView kept;
    if (inverse_rms != nullptr) kept = inverse_rms->Slice(i, i + 1).vector();
    ++i;
    PLAIT_RETURN_IF_ERROR(part.norm->Forward(execution, selection.columns(part.begin, part.columns),
                                             normalized.columns(part.begin, part.columns), kept));
  }
  return normalized;
}

SelectiveScanInputs MambaBlock::ScanInputs(const SequenceLayout& layout, const Tensor& u,
                                           const Tensor& dt, const Tensor& xz,
                                           const Tensor& normalized) const {
  return {.x = u.matrix(),
          .dt = dt.matrix(),
          .z = xz.columns(channels_, channels_),
          .b = normalized.columns(dt_rank_, state_dim_),
          .c = normalized.columns(dt_rank_ + state_dim_, state_dim_),
          .a_log = a_log_.parameter.value.matrix(),
          .d = d_.parameter.value.vector(),
          .dt_bias = dt_bias_.parameter.value.vector(),
          .documents = layout.documents(),
          .document_offsets = layout.document_offsets.data()};
}

absl::Status MambaBlock::Forward(Execution& execution, const BlockForwardContext& context,
                                 ResidualStream& stream, std::unique_ptr<Saved>* saved) {
  auto keep = saved != nullptr ? std::make_unique<MambaSaved>() : nullptr;
  PLAIT_ASSIGN_OR_RETURN(const Tensor rows,
                         norm_.Forward(execution, context, stream, keep ? &keep->norm : nullptr));
  PLAIT_ASSIGN_OR_RETURN(const Tensor y, tensor_.Gather(execution, rows));
  const SequenceLayout& layout = *context.layout;
  const int64_t tokens = layout.tokens;
  const DType dtype = y.dtype(), statistics = StatisticsDType(dtype);

  Tensor xz = execution.Empty(dtype, {tokens, 2 * channels_});
  PLAIT_RETURN_IF_ERROR(in_.Forward(execution, y.matrix(), xz.matrix()));
  Tensor u = execution.Empty(dtype, {tokens, channels_});
  CausalConvolutionForwardArgs convolution{.x = xz.columns(0, channels_),
                                           .weight = conv_weight_.parameter.value.matrix(),
                                           .bias = conv_bias(),
                                           .documents = layout.documents(),
                                           .document_offsets = layout.document_offsets.data(),
                                           .y = u.matrix()};
  PLAIT_ASSIGN_OR_RETURN(
      Tensor inputs_before,
      segments_.InputsBefore(execution, layout, xz.columns(0, channels_), conv_width_));
  if (inputs_before) convolution.initial_state = inputs_before.matrix();
  if (context.cache != nullptr) {
    convolution.initial_state = context.cache->convolution.matrix();
    convolution.final_state = context.cache->convolution.matrix();
  }
  PLAIT_RETURN_IF_ERROR(Annotate(CausalConvolutionForward(execution, convolution), name_));

  Tensor selection = execution.Empty(dtype, {tokens, dt_rank_ + 2 * state_dim_});
  PLAIT_RETURN_IF_ERROR(x_.Forward(execution, u.matrix(), selection.matrix()));
  PLAIT_RETURN_IF_ERROR(tensor_.AllReduce(execution, selection));
  Tensor inverse_rms = keep ? execution.Empty(statistics, {3, tokens}) : Tensor();
  PLAIT_ASSIGN_OR_RETURN(const Tensor normalized,
                         NormalizedSelection(execution, selection, keep ? &inverse_rms : nullptr));
  Tensor dt = execution.Empty(dtype, {tokens, channels_});
  PLAIT_RETURN_IF_ERROR(dt_.Forward(execution, normalized.columns(0, dt_rank_), dt.matrix()));

  Tensor scanned = execution.Empty(dtype, {tokens, channels_});
  SelectiveScanForwardArgs scan{.in = ScanInputs(layout, u, dt, xz, normalized),
                                .y = scanned.matrix()};
  Tensor checkpoints;
  if (keep) {
    checkpoints =
        execution.Empty(statistics, {NumSelectiveScanCheckpoints(tokens) * state_dim_, channels_});
    scan.checkpoints = checkpoints.matrix();
  }
  PLAIT_ASSIGN_OR_RETURN(Tensor states_before, segments_.StatesBefore(execution, layout, scan.in));
  if (states_before) scan.initial_state = states_before.matrix();
  if (context.cache != nullptr) {
    scan.initial_state = context.cache->scan.matrix();
    scan.final_state = context.cache->scan.matrix();
    context.cache->length += tokens;
  }
  PLAIT_RETURN_IF_ERROR(Annotate(SelectiveScanForward(execution, scan), name_));

  Tensor partial = execution.Empty(dtype, y.shape());
  PLAIT_RETURN_IF_ERROR(out_.Forward(execution, scanned.matrix(), partial.matrix()));
  PLAIT_ASSIGN_OR_RETURN(stream.delta, tensor_.ReduceScatter(execution, partial));
  if (keep) {
    keep->residual_sum = stream.residual;
    if (keep_output_) keep->output = stream.delta;
    keep->xz = std::move(xz);
    keep->u = std::move(u);
    keep->selection = std::move(selection);
    keep->inverse_rms = std::move(inverse_rms);
    keep->checkpoints = std::move(checkpoints);
    keep->inputs_before = std::move(inputs_before);
    keep->states_before = std::move(states_before);
    keep->scanned = std::move(scanned);
    *saved = std::move(keep);
  }
  return absl::OkStatus();
}

absl::StatusOr<Tensor> MambaBlock::Backward(Execution& execution,
                                            const BlockBackwardContext& context,
                                            const Tensor& gradient, const Saved& base) {
  const auto& saved = static_cast<const MambaSaved&>(base);
  const SequenceLayout& layout = *context.layout;
  const int64_t tokens = layout.tokens;
  const DType dtype = gradient.dtype(), statistics = StatisticsDType(dtype);
  PLAIT_ASSIGN_OR_RETURN(const Tensor drows,
                         norm_.OutputGradient(execution, context, gradient, saved.output));
  PLAIT_ASSIGN_OR_RETURN(const Tensor dout, tensor_.Gather(execution, drows));
  PLAIT_RETURN_IF_ERROR(out_.WeightGradient(execution, dout.matrix(), saved.scanned.matrix()));
  Tensor dscanned = execution.Empty(dtype, {tokens, channels_});
  PLAIT_RETURN_IF_ERROR(out_.InputGradient(execution, dout.matrix(), dscanned.matrix()));

  // The scan: dt is formed again from the selection, which is dt_rank wide.
  PLAIT_ASSIGN_OR_RETURN(const Tensor normalized,
                         NormalizedSelection(execution, saved.selection, nullptr));
  Tensor dt = execution.Empty(dtype, {tokens, channels_});
  PLAIT_RETURN_IF_ERROR(dt_.Forward(execution, normalized.columns(0, dt_rank_), dt.matrix()));
  Tensor dxz = execution.Empty(dtype, {tokens, 2 * channels_});
  Tensor du = execution.Empty(dtype, {tokens, channels_});
  Tensor ddt = execution.Empty(dtype, {tokens, channels_});
  Tensor dnormalized = execution.Empty(dtype, normalized.shape());
  SelectiveScanBackwardArgs scan{.in = ScanInputs(layout, saved.u, dt, saved.xz, normalized),
                                 .checkpoints = saved.checkpoints.matrix(),
                                 .dy = dscanned.matrix(),
                                 .dx = du.matrix(),
                                 .ddt = ddt.matrix(),
                                 .dz = dxz.columns(channels_, channels_),
                                 .db = dnormalized.columns(dt_rank_, state_dim_),
                                 .dc = dnormalized.columns(dt_rank_ + state_dim_, state_dim_),
                                 .da_log = a_log_.parameter.gradient.matrix(),
                                 .dd = d_.parameter.gradient.vector(),
                                 .ddt_bias = dt_bias_.parameter.gradient.vector()};
  if (saved.states_before) scan.initial_state = saved.states_before.matrix();
  PLAIT_ASSIGN_OR_RETURN(const Tensor dstates_after,
                         segments_.StateGradientsAfter(execution, layout, scan.in, scan.dy));
  if (dstates_after) scan.dfinal_state = dstates_after.matrix();
  PLAIT_RETURN_IF_ERROR(Annotate(SelectiveScanBackward(execution, scan), name_));

  // dt_proj, the inner norms, x_proj.
  PLAIT_RETURN_IF_ERROR(
      dt_.WeightGradient(execution, ddt.matrix(), normalized.columns(0, dt_rank_)));
  PLAIT_RETURN_IF_ERROR(
      dt_.InputGradient(execution, ddt.matrix(), dnormalized.columns(0, dt_rank_)));
  PLAIT_RETURN_IF_ERROR(tensor_.AllReduce(execution, dnormalized));
  Tensor dselection = execution.Empty(dtype, normalized.shape());
  int64_t i = 0;
  for (const Part& part : Parts()) {
    const Tensor inverse_rms = saved.inverse_rms.Slice(i, i + 1);
    ++i;
    PLAIT_RETURN_IF_ERROR(
        part.norm->Backward(execution, dnormalized.columns(part.begin, part.columns),
                            saved.selection.columns(part.begin, part.columns), inverse_rms.vector(),
                            {}, dselection.columns(part.begin, part.columns),
                            tensor_.rank() == 0 ? RmsNorm::WeightGradient::kAdded
                                                : RmsNorm::WeightGradient::kLeftToAnotherRank));
  }
  PLAIT_RETURN_IF_ERROR(x_.WeightGradient(execution, dselection.matrix(), saved.u.matrix()));
  Tensor du_selection = execution.Empty(statistics, du.shape());
  PLAIT_RETURN_IF_ERROR(x_.InputGradient(execution, dselection.matrix(), du_selection.matrix()));
  PLAIT_RETURN_IF_ERROR(
      ScaledAdd(execution, {.a = du.matrix(), .b = du_selection.matrix(), .out = du.matrix()}));

  // The convolution, in_proj, the norm.
  CausalConvolutionBackwardArgs convolution{.x = saved.xz.columns(0, channels_),
                                            .weight = conv_weight_.parameter.value.matrix(),
                                            .bias = conv_bias(),
                                            .documents = layout.documents(),
                                            .document_offsets = layout.document_offsets.data(),
                                            .dy = du.matrix(),
                                            .dx = dxz.columns(0, channels_),
                                            .dweight = conv_weight_.parameter.gradient.matrix()};
  if (conv_bias_.parameter.gradient) convolution.dbias = conv_bias_.parameter.gradient.vector();
  if (saved.inputs_before) convolution.initial_state = saved.inputs_before.matrix();
  PLAIT_ASSIGN_OR_RETURN(const Tensor dinputs_after,
                         segments_.InputGradientsAfter(execution, layout, convolution));
  if (dinputs_after) convolution.dfinal_state = dinputs_after.matrix();
  PLAIT_RETURN_IF_ERROR(Annotate(CausalConvolutionBackward(execution, convolution), name_));
  PLAIT_ASSIGN_OR_RETURN(const Tensor rows, norm_.Recompute(execution, saved.residual_sum));
  PLAIT_ASSIGN_OR_RETURN(const Tensor y, tensor_.Gather(execution, rows));
  PLAIT_RETURN_IF_ERROR(in_.WeightGradient(execution, dxz.matrix(), y.matrix()));
  Tensor dpartial = execution.Empty(dtype, y.shape());
  PLAIT_RETURN_IF_ERROR(in_.InputGradient(execution, dxz.matrix(), dpartial.matrix()));
  PLAIT_ASSIGN_OR_RETURN(const Tensor dy, tensor_.ReduceScatter(execution, dpartial));
  return norm_.Backward(execution, context, gradient, dy, saved.residual_sum, saved.norm);
}

}  // namespace plait
