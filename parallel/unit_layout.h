// How the parameters of a unit lie in memory: flat sections, one for every dtype and mesh group
// that occurs in it, in which each parameter begins at a whole tile. A section is cut into equal
// shares of whole tiles, one for each rank of its group, without regard to where parameters end.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <vector>

#include "parallel/parameter.h"

namespace plait {

// Elements of a tile. Whatever is summed over a shard (the gradient norm) is summed tile by tile,
// so that results do not depend on where shares begin.
inline constexpr int64_t kTileElements = 128;

struct SectionLayout {
  DType dtype = DType::kF32;
  MeshGroup group = MeshGroup::kData;
  std::vector<int> members;      // indices into the unit's parameters
  std::vector<int64_t> offsets;  // elements, of each member
  int64_t elements = 0;          // a multiple of the number of shares x kTileElements

  int64_t share(int64_t shares) const { return elements / shares; }
};

// shares: ranks by MeshGroup.
std::vector<SectionLayout> LayOutSections(std::span<Parameter* const> parameters,
                                          const std::array<int64_t, kNumMeshGroups>& shares);

// The elements of a parameter of `size` elements at `offset` that lie in [begin, end) of its
// section, counted in the parameter; empty where there are none.
ShardSpec::Range PartInShare(int64_t offset, int64_t size, int64_t begin, int64_t end);

}  // namespace plait
