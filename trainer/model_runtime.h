// ModelRuntime: a recipe's model with its ranks and the memory of its parameters, for training,
// generation and benchmarks alike.
#pragma once

#include <array>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/execution.h"
#include "checkpoint/checkpoint_reader.h"
#include "model/language_model.h"
#include "parallel/communicator.h"
#include "parallel/device_mesh.h"
#include "parallel/parameter_sharder.h"
#include "recipes/pipeline_partition.h"

namespace plait {

namespace recipe::v1 {
class Recipe;
}

struct ModelRuntime {
  std::unique_ptr<DeviceMesh> mesh;
  std::unique_ptr<LanguageModel> model;
  std::unique_ptr<ParameterSharder> sharder;  // uses the model's parameters

  // Collective. recipe: resolved and valid. Parameters are zero until Initialize or LoadWeights.
  // world: of the host, on GPUs made one that reaches their memory (device_world.h, and its
  // errors). InvalidArgument where the mesh does not make the world.
  static absl::StatusOr<ModelRuntime> Create(
      Execution& execution, const recipe::v1::Recipe& recipe,
      std::shared_ptr<Communicator> world = MakeSingleRankCommunicator());

  // Most bytes of tensors that this rank held at a time: its Execution's, its part of memory that
  // the ranks of a host share, and what its communicators add up in on a device.
  int64_t AllocatedBytesPeak(const Execution& execution) const;
};

// What the recipe says, in the terms of those who are told. recipe: resolved and valid.
DType ComputeDType(const recipe::v1::Recipe& recipe);
Recomputation RecomputationOf(const recipe::v1::Recipe& recipe);
SharderOptions SharderOptionsOf(const recipe::v1::Recipe& recipe);
absl::StatusOr<ModelShape> ModelShapeOf(const recipe::v1::Recipe& recipe);
// Of the whole pipeline, in their order; one without a pipeline.
absl::StatusOr<std::vector<BlockRange>> PipelinePartsOf(const recipe::v1::Recipe& recipe);
// Sizes by MeshAxis; shard 0: the ranks that are left.
std::array<int64_t, kNumMeshAxes> MeshSizesOf(const recipe::v1::Recipe& recipe);

// What the recipe says about device and threads; fair_threads and rank_on_host, whose device it
// gets, are those of parallel/host_share.h.
// InvalidArgument where it asks for a device that is not there.
absl::StatusOr<ExecutionOptions> ExecutionOptionsFor(const recipe::v1::Recipe& recipe,
                                                     int fair_threads = 0, int rank_on_host = 0);

// XXH3-128 of everything that the meaning of the weights depends on: shape, pattern, heads, norms;
// not losses and initialisation.
std::string ModelDigest(const recipe::v1::Recipe& recipe);

// FailedPrecondition (exit code 3), naming the first field that differs, where the checkpoint is of
// another model than the recipe's.
absl::Status CheckSameModel(const CheckpointReader& checkpoint, const recipe::v1::Recipe& recipe);

// Collective. The weights alone, of a checkpoint of the same model; each rank reads its shards.
absl::Status LoadWeights(const CheckpointReader& checkpoint, const recipe::v1::Recipe& recipe,
                         ModelRuntime& runtime);

}  // namespace plait
