#include "parallel/device_mesh.h"

#include <algorithm>
#include <initializer_list>
#include <iterator>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
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
  const int64_t sharing =
      size(MeshAxis::kReplicate) * size(MeshAxis::kShard) * size(MeshAxis::kContext);
  if (sharing % size(MeshAxis::kExpert) != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("mesh axis expert = ", size(MeshAxis::kExpert),
                     " does not divide replicate x shard x context = ", sharing));
  }
  if (size(MeshAxis::kShard) % size(MeshAxis::kExpert) != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("mesh axis expert = ", size(MeshAxis::kExpert),
                     " must divide the shard axis = ", size(MeshAxis::kShard)));
  }

  int64_t remaining = world->rank();
  for (int i = std::size(kWorldAxes) - 1; i >= 0; --i) {
    mesh.coordinates_[static_cast<int>(kWorldAxes[i])] = remaining % size(kWorldAxes[i]);
    remaining /= size(kWorldAxes[i]);
  }
  const auto at = [&mesh](MeshAxis axis) { return mesh.coordinate(axis); };
  mesh.coordinates_[static_cast<int>(MeshAxis::kExpert)] =
      at(MeshAxis::kShard) % size(MeshAxis::kExpert);

  // Ranks that agree in every coordinate but those of `along` make one communicator, in the order
  // of `order`.
  const auto split = [&](std::initializer_list<MeshAxis> along, int64_t order, int64_t color_extra,
                         int64_t ranks,
                         const char* name) -> absl::StatusOr<std::shared_ptr<Communicator>> {
    if (ranks == 1) return std::shared_ptr<Communicator>(MakeSingleRankCommunicator());
    int64_t color = 0;
    for (const MeshAxis axis : kWorldAxes) {
      const bool free = std::find(along.begin(), along.end(), axis) != along.end();
      color = color * size(axis) + (free ? 0 : at(axis));
    }
    color = color * world_size + color_extra;
    return world->Split(static_cast<int>(color), static_cast<int>(order), name);
  };
  for (const MeshAxis axis : kWorldAxes) {
    PLAIT_ASSIGN_OR_RETURN(mesh.communicators_[static_cast<int>(axis)],
                           split({axis}, at(axis), 0, size(axis), std::string(Name(axis)).c_str()));
  }
  const int64_t experts = size(MeshAxis::kExpert);
  const int64_t expert_shares = size(MeshAxis::kShard) / experts;
  const int64_t expert_share = at(MeshAxis::kShard) / experts;
  PLAIT_ASSIGN_OR_RETURN(
      mesh.communicators_[static_cast<int>(MeshAxis::kExpert)],
      split({MeshAxis::kShard}, at(MeshAxis::kExpert), expert_share, experts, "expert"));
  PLAIT_ASSIGN_OR_RETURN(mesh.data_parallel_,
                         split({MeshAxis::kReplicate, MeshAxis::kShard}, mesh.data_parallel_rank(),
                               0, mesh.data_parallel_size(), "data_parallel"));

  Group& data = mesh.groups_[static_cast<int>(MeshGroup::kData)];
  data.shard = mesh.communicators_[static_cast<int>(MeshAxis::kShard)];
  data.replicate = mesh.communicators_[static_cast<int>(MeshAxis::kReplicate)];
  const int64_t replicas = size(MeshAxis::kReplicate);
  PLAIT_ASSIGN_OR_RETURN(data.owners,
                         split({MeshAxis::kReplicate, MeshAxis::kShard},
                               at(MeshAxis::kShard) * replicas + at(MeshAxis::kReplicate), 0,
                               mesh.data_parallel_size(), "owners"));
  Group& expert = mesh.groups_[static_cast<int>(MeshGroup::kExpertData)];
  if (experts == 1) {
    expert = data;
  } else {
    PLAIT_ASSIGN_OR_RETURN(
        expert.shard, split({MeshAxis::kShard}, expert_share, at(MeshAxis::kExpert), expert_shares,
                            "expert_shard"));
    expert.replicate = data.replicate;
    PLAIT_ASSIGN_OR_RETURN(expert.owners,
                           split({MeshAxis::kReplicate, MeshAxis::kShard},
                                 expert_share * replicas + at(MeshAxis::kReplicate),
                                 at(MeshAxis::kExpert), expert_shares * replicas, "expert_owners"));
  }
  mesh.world_ = std::move(world);
  return mesh;
}

}  // namespace plait
