#include "parallel/device_mesh.h"

#include <algorithm>
#include <initializer_list>
#include <iterator>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/status_macros.h"

namespace plait {
namespace {

// Axes whose sizes multiply to the world's size, slowest rank first.
constexpr MeshAxis kWorldAxes[] = {MeshAxis::kPipeline, MeshAxis::kReplicate, MeshAxis::kShard,
                                   MeshAxis::kContext, MeshAxis::kTensor};

std::string Describe(const std::array<int64_t, kNumMeshAxes>& sizes) {
  std::string text;
  for (const MeshAxis axis : kWorldAxes) {
    absl::StrAppend(&text, text.empty() ? "" : " x ", std::string(Name(axis)), " ",
                    sizes[static_cast<int>(axis)]);
  }
  return text;
}

}  // namespace

std::string_view Name(MeshAxis axis) {
  switch (axis) {
    case MeshAxis::kPipeline:
      return "pipeline";
    case MeshAxis::kReplicate:
      return "replicate";
    case MeshAxis::kShard:
      return "shard";
    case MeshAxis::kContext:
      return "context";
    case MeshAxis::kTensor:
      return "tensor";
    case MeshAxis::kExpert:
      return "expert";
  }
  return "?";
}

absl::StatusOr<DeviceMesh> DeviceMesh::Create(const std::array<int64_t, kNumMeshAxes>& sizes,
                                              std::shared_ptr<Communicator> world) {
  DeviceMesh mesh;
  mesh.sizes_ = sizes;
  const int64_t world_size = world->size();
  const auto size = [&mesh](MeshAxis axis) -> int64_t& {
    return mesh.sizes_[static_cast<int>(axis)];
  };
  for (int i = 0; i < kNumMeshAxes; ++i) {
    const auto axis = static_cast<MeshAxis>(i);
    if (sizes[i] < 0 || (sizes[i] == 0 && axis != MeshAxis::kShard)) {
      return absl::InvalidArgumentError(absl::StrCat("mesh axis ", std::string(Name(axis)),
                                                     ": expected at least 1, got ", sizes[i]));
    }
  }
  if (size(MeshAxis::kShard) == 0) {
    const int64_t others = size(MeshAxis::kPipeline) * size(MeshAxis::kReplicate) *
                           size(MeshAxis::kContext) * size(MeshAxis::kTensor);
    size(MeshAxis::kShard) = world_size % others == 0 ? world_size / others : 1;
  }
  int64_t product = 1;
  for (const MeshAxis axis : kWorldAxes) product *= size(axis);
  if (product != world_size) {
    return absl::InvalidArgumentError(absl::StrCat("mesh ", Describe(mesh.sizes_), " = ", product,
                                                   " does not make a world of ", world_size,
                                                   " ranks"));
  }
  const int64_t shares = size(MeshAxis::kShard) * size(MeshAxis::kContext);
  if (shares % size(MeshAxis::kExpert) != 0) {
    return absl::InvalidArgumentError(absl::StrCat("mesh axis expert = ", size(MeshAxis::kExpert),
                                                   " does not divide shard x context = ", shares));
  }

  int64_t remaining = world->rank();
  for (int i = std::size(kWorldAxes) - 1; i >= 0; --i) {
    mesh.coordinates_[static_cast<int>(kWorldAxes[i])] = remaining % size(kWorldAxes[i]);
    remaining /= size(kWorldAxes[i]);
  }
  const int64_t share = mesh.coordinate(MeshAxis::kShard) * size(MeshAxis::kContext) +
                        mesh.coordinate(MeshAxis::kContext);
  mesh.coordinates_[static_cast<int>(MeshAxis::kExpert)] = share % size(MeshAxis::kExpert);
  PLAIT_RETURN_IF_ERROR(mesh.MakeCommunicators(*world));
  mesh.world_ = std::move(world);
  return mesh;
}

DeviceMesh DeviceMesh::SingleRank() {
  absl::StatusOr<DeviceMesh> mesh = Create({1, 1, 1, 1, 1, 1}, MakeSingleRankCommunicator());
  PLAIT_CHECK(mesh.ok());
  return *std::move(mesh);
}

absl::Status DeviceMesh::MakeCommunicators(Communicator& world) {
  const auto at = [this](MeshAxis axis) { return coordinate(axis); };
  // Ranks that agree in `extra` (below shard x context; 0 unless both are in `along`) and in every
  // coordinate but those of `along` make one communicator, in the order of `order`.
  const auto split = [&](std::initializer_list<MeshAxis> along, int64_t extra, int64_t order,
                         int64_t ranks,
                         const std::string& name) -> absl::StatusOr<std::shared_ptr<Communicator>> {
    if (ranks == 1) return std::shared_ptr<Communicator>(MakeSingleRankCommunicator());
    int64_t color = 0;
    for (const MeshAxis axis : kWorldAxes) {
      const bool free = std::find(along.begin(), along.end(), axis) != along.end();
      color = color * size(axis) + (free ? 0 : at(axis));
    }
    // In the place of the coordinates of shard and context, which are free then.
    color += extra * size(MeshAxis::kTensor);
    return world.Split(static_cast<int>(color), static_cast<int>(order), name);
  };
  const auto communicator = [this](MeshAxis axis) -> std::shared_ptr<Communicator>& {
    return communicators_[static_cast<int>(axis)];
  };
  using enum MeshAxis;
  for (const MeshAxis axis : kWorldAxes) {
    PLAIT_ASSIGN_OR_RETURN(communicator(axis),
                           split({axis}, 0, at(axis), size(axis), std::string(Name(axis))));
  }
  const int64_t replicas = size(kReplicate), contexts = size(kContext), tensors = size(kTensor);
  const int64_t shares = size(kShard) * contexts;
  const int64_t share = at(kShard) * contexts + at(kContext);
  PLAIT_ASSIGN_OR_RETURN(data_parallel_, split({kReplicate, kShard}, 0, data_parallel_rank(),
                                               data_parallel_size(), "data_parallel"));

  Group& data = groups_[static_cast<int>(MeshGroup::kData)];
  data.replicate = communicator(kReplicate);
  data.shard = communicator(kShard);
  if (contexts > 1) {
    PLAIT_ASSIGN_OR_RETURN(data.shard, split({kShard, kContext}, 0, share, shares, "share"));
  }
  PLAIT_ASSIGN_OR_RETURN(data.owners,
                         split({kReplicate, kShard, kContext}, 0, share * replicas + at(kReplicate),
                               shares * replicas, "owners"));

  Group& sequence = groups_[static_cast<int>(MeshGroup::kSequence)];
  sequence = data;
  microbatch_ = communicator(kContext);
  if (tensors > 1) {
    const int64_t order = share * tensors + at(kTensor);
    PLAIT_ASSIGN_OR_RETURN(sequence.shard, split({kShard, kContext, kTensor}, 0, order,
                                                 shares * tensors, "sequence_share"));
    PLAIT_ASSIGN_OR_RETURN(sequence.owners, split({kReplicate, kShard, kContext, kTensor}, 0,
                                                  order * replicas + at(kReplicate),
                                                  shares * tensors * replicas, "sequence_owners"));
    microbatch_ = communicator(kTensor);
    if (contexts > 1) {
      PLAIT_ASSIGN_OR_RETURN(microbatch_,
                             split({kContext, kTensor}, 0, at(kContext) * tensors + at(kTensor),
                                   contexts * tensors, "microbatch"));
    }
  }
  model_ = sequence.shard;
  if (size(kPipeline) > 1) {
    const int64_t stages = size(kPipeline);
    PLAIT_ASSIGN_OR_RETURN(model_, split({kPipeline, kShard, kContext, kTensor}, 0,
                                         (at(kPipeline) * shares + share) * tensors + at(kTensor),
                                         stages * shares * tensors, "model"));
  }

  const int64_t experts = size(kExpert);
  PLAIT_ASSIGN_OR_RETURN(communicator(kExpert), split({kShard, kContext}, share / experts,
                                                      at(kExpert), experts, "expert"));
  experts_ = communicator(kExpert);
  if (tensors > 1) {
    PLAIT_ASSIGN_OR_RETURN(
        experts_, split({kShard, kContext, kTensor}, share / experts,
                        at(kExpert) * tensors + at(kTensor), experts * tensors, "experts"));
  }
  Group& expert = groups_[static_cast<int>(MeshGroup::kExpertData)];
  expert = data;
  if (experts > 1) {
    PLAIT_ASSIGN_OR_RETURN(expert.shard, split({kShard, kContext}, at(kExpert), share / experts,
                                               shares / experts, "expert_share"));
    PLAIT_ASSIGN_OR_RETURN(expert.owners, split({kReplicate, kShard, kContext}, at(kExpert),
                                                share / experts * replicas + at(kReplicate),
                                                shares / experts * replicas, "expert_owners"));
  }
  return absl::OkStatus();
}

}  // namespace plait
