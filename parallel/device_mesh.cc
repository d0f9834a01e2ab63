#include "parallel/device_mesh.h"

#include <string>
#include <utility>

#include "absl/strings/str_cat.h"

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
  if (world_size != 1) {
    return absl::UnimplementedError(absl::StrCat("mesh ", Describe(mesh.sizes_),
                                                 ": this build trains on one rank, the world has ",
                                                 world_size, "; start it without a launcher"));
  }
  mesh.data_parallel_ = world;
  mesh.communicators_.fill(world);
  mesh.world_ = std::move(world);
  return mesh;
}

}  // namespace plait
