// Parameter: what a layer sees. ShardedParameter: what the optimizer and the checkpoint see of the
// same tensor.
#pragma once

#include <optional>
#include <string>

#include "base/tensor.h"
#include "parallel/shard_spec.h"

namespace plait {

// Ranks that share a parameter's box among them, each with a part of the tokens that its gradient
// sums over. Replicas along the replicate axis hold the same shares.
enum class MeshGroup {
  kData,        // of what the tensor axis cuts: shard x context
  kSequence,    // of what every tensor rank needs whole: shard x context x tensor
  kExpertData,  // of experts: those of shard x context that hold the same ones
};
inline constexpr int kNumMeshGroups = 3;

// Names are the Hugging Face names of the tensors ("model.layers.3.mamba.A_log").
struct Parameter {
  std::string name;
  Shape shape;                // of this rank's box
  DType dtype = DType::kF32;  // of `value`: the compute dtype, or f32 where the mathematics needs
                              // it (A_log, D, dt bias)
  MeshGroup group = MeshGroup::kData;
  // Which part of the logical tensor this rank's box is; absent: all of it.
  std::optional<ShardSpec> box;
  Tensor value;     // valid only while its unit is unsharded
  Tensor gradient;  // f32 (f64 beside f64), valid between PrepareGradients and ReduceGradients of
                    // its unit; layers add to it, never overwrite it
};

// Makes the parameter, whole until now, of the group kData and part `part` of `parts` along `dim`
// of its logical tensor; dim 0 may consist of equal segments that are cut each by itself. The sizes
// must divide.
void Cut(Parameter& parameter, int dim, int64_t segments, int64_t part, int64_t parts);

struct ShardedParameter {
  std::string name;
  ShardSpec spec;   // may be of no elements: a rank's share need not touch every parameter
  int replica = 0;  // of `replicas` ranks that hold the same shard
  int replicas = 1;
  Tensor master;    // f32 (f64 beside f64), [elements of the shard]: the value that is trained
  Tensor gradient;  // same dtype and size; sum over the step after FinishGradients
  Tensor compute;   // the shard in the compute dtype, written by the optimizer; shares storage with
                    // master if equal
};

}  // namespace plait
