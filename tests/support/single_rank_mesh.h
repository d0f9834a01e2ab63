// The mesh of one rank, for models that are not spread.
#pragma once

#include "parallel/device_mesh.h"

namespace plait {

inline const DeviceMesh& SingleRankMesh() {
  static const DeviceMesh mesh = DeviceMesh::SingleRank();
  return mesh;
}

}  // namespace plait
