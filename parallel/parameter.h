// Parameter: what a layer sees. ShardedParameter: what the optimizer and the checkpoint see of the
// same tensor.
#pragma once

#include <string>

#include "base/tensor.h"
#include "parallel/shard_spec.h"

namespace plait {

// Names are the Hugging Face names of the tensors ("model.layers.3.mamba.A_log").
struct Parameter {
  std::string name;
  Shape shape;                // of this rank's box
  DType dtype = DType::kF32;  // of `value`: the compute dtype, or f32 where the mathematics needs
                              // it (A_log, D, dt bias)
  Tensor value;               // valid only while its unit is unsharded
  Tensor gradient;            // f32 (f64 beside f64); layers add to it, never overwrite it
};

struct ShardedParameter {
  std::string name;
  ShardSpec spec;
  Tensor master;    // f32 (f64 beside f64), [elements of the shard]: the value that is trained
  Tensor gradient;  // same dtype and size; sum over the step after ReduceGradients
  Tensor compute;   // the shard in the compute dtype, written by the optimizer; shares storage with
                    // master if equal
};

}  // namespace plait
