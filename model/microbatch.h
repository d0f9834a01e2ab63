// One microbatch, as the model reads it.
#pragma once

#include "absl/status/statusor.h"
#include "base/tensor.h"
#include "model/sequence_layout.h"
#include "parallel/device_mesh.h"

namespace plait {

struct Microbatch {
  // Of this rank's segment, [tokens].
  Tensor tokens;        // i32; negative: padding
  Tensor targets;       // i32; negative only where the weight is 0
  Tensor token_weight;  // f32 or f64
  SequenceLayout layout;

  // Of the whole microbatch; part: which of it this rank works on. dtype: the model's compute
  // dtype. InvalidArgument where sizes or offsets do not agree.
  static absl::StatusOr<Microbatch> Create(const Tensor& tokens, const Tensor& targets,
                                           const Tensor& token_weight,
                                           const Tensor& document_offsets, DType dtype,
                                           const TokenPart& part = {});
};

// sum_t weight[t] x -log_probability[t] of this rank's segment: what it contributes to the sum over
// the ranks of the microbatch. log_probability: f32 or f64 [tokens of the segment].
double WeightedNegativeLogLikelihood(const DeviceMesh& mesh, const Microbatch& microbatch,
                                     const Tensor& log_probability);

}  // namespace plait
