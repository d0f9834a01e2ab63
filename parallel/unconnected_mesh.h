// A mesh whose communicators know their sizes and ranks and nothing else: layers and layouts can be
// made over it for any number of ranks, without one of them running. Every collective fails.
#pragma once

#include <array>
#include <cstdint>

#include "absl/status/statusor.h"
#include "parallel/device_mesh.h"

namespace plait {

// The mesh as rank `rank` of a world of `world_size` sees it. sizes: as of DeviceMesh::Create,
// whose errors are returned. Time and memory grow with world_size: 2,048 ranks take milliseconds.
absl::StatusOr<DeviceMesh> MakeUnconnectedMesh(const std::array<int64_t, kNumMeshAxes>& sizes,
                                               int64_t world_size, int64_t rank);

}  // namespace plait
