// DeviceMesh: the ranks of a run, arranged along named axes. world = pipeline x replicate x shard x
// context x tensor (tensor fastest). The expert axis divides shard x context and never multiplies
// the world: the experts of a layer are dealt to neighbouring ranks of shard x context, and to all
// tensor ranks of each (docs/decisions/0004-axes.md).
#pragma once

#include <array>
#include <memory>
#include <string_view>

#include "absl/status/statusor.h"
#include "parallel/communicator.h"
#include "parallel/parameter.h"

namespace plait {

enum class MeshAxis { kPipeline, kReplicate, kShard, kContext, kTensor, kExpert };
inline constexpr int kNumMeshAxes = 6;

std::string_view Name(MeshAxis axis);

class DeviceMesh {
 public:
  // The ranks that share a kind of parameters (MeshGroup).
  struct Group {
    std::shared_ptr<Communicator> shard;      // each holds a share
    std::shared_ptr<Communicator> replicate;  // all hold the same share
    // Both, ordered by share, then replica: the owners of parts of shares (canonical reduction).
    std::shared_ptr<Communicator> owners;
  };

  // Collective. Sizes by MeshAxis; 0 for shard means the ranks that are left. InvalidArgument,
  // naming the axes and the product, where they do not make the world's size.
  static absl::StatusOr<DeviceMesh> Create(const std::array<int64_t, kNumMeshAxes>& sizes,
                                           std::shared_ptr<Communicator> world);

  // Of one rank, whatever the world.
  static DeviceMesh SingleRank();

  int64_t size(MeshAxis axis) const { return sizes_[static_cast<int>(axis)]; }
  // This rank's coordinate along the axis.
  int64_t coordinate(MeshAxis axis) const { return coordinates_[static_cast<int>(axis)]; }
  Communicator& world() const { return *world_; }
  Communicator& axis(MeshAxis axis) const { return *communicators_[static_cast<int>(axis)]; }
  const Group& group(MeshGroup group) const { return groups_[static_cast<int>(group)]; }
  // Ranks that read different microbatches: replicate x shard.
  int64_t data_parallel_size() const { return size(MeshAxis::kReplicate) * size(MeshAxis::kShard); }
  int64_t data_parallel_rank() const {
    return coordinate(MeshAxis::kReplicate) * size(MeshAxis::kShard) + coordinate(MeshAxis::kShard);
  }
  // Over replicate x shard, ordered by data_parallel_rank.
  Communicator& data_parallel() const { return *data_parallel_; }
  // Over context x tensor: the ranks that hold the tokens of one microbatch.
  Communicator& microbatch() const { return *microbatch_; }
  // Over expert x tensor: the ranks that the experts of a layer are dealt to, in this order.
  Communicator& experts() const { return *experts_; }
  // Over all axes but replicate: the ranks that hold each parameter once between them.
  Communicator& model() const { return *model_; }
  // One of the ranks that read the same microbatch: what all of them know, it counts.
  bool is_first_of_microbatch() const {
    return microbatch_->rank() == 0 && coordinate(MeshAxis::kPipeline) == 0;
  }
  // The data-parallel rank of a rank of the world.
  int64_t data_parallel_rank_of(int64_t world_rank) const {
    const int64_t inner = size(MeshAxis::kContext) * size(MeshAxis::kTensor);
    return world_rank / inner % data_parallel_size();
  }

 private:
  absl::Status MakeCommunicators(Communicator& world);

  std::array<int64_t, kNumMeshAxes> sizes_{};
  std::array<int64_t, kNumMeshAxes> coordinates_{};
  std::shared_ptr<Communicator> world_;
  std::shared_ptr<Communicator> data_parallel_, microbatch_, experts_, model_;
  std::array<std::shared_ptr<Communicator>, kNumMeshAxes> communicators_;
  std::array<Group, kNumMeshGroups> groups_;
};

}  // namespace plait
