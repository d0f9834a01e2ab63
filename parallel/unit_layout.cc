#include "parallel/unit_layout.h"

#include <algorithm>
#include <map>
#include <utility>

namespace plait {
namespace {

int64_t RoundUp(int64_t value, int64_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

}  // namespace

std::vector<SectionLayout> LayOutSections(std::span<Parameter* const> parameters,
                                          const std::array<int64_t, kNumMeshGroups>& shares) {
  std::map<std::pair<MeshGroup, DType>, SectionLayout> sections;
  for (size_t i = 0; i < parameters.size(); ++i) {
    const Parameter& parameter = *parameters[i];
    SectionLayout& section = sections[{parameter.group, parameter.dtype}];
    section.dtype = parameter.dtype;
    section.group = parameter.group;
    section.members.push_back(static_cast<int>(i));
    section.offsets.push_back(section.elements);
    section.elements += RoundUp(parameter.shape.num_elements(), kTileElements);
  }
  std::vector<SectionLayout> result;
  for (auto& [key, section] : sections) {
    section.elements =
        RoundUp(section.elements, shares[static_cast<int>(section.group)] * kTileElements);
    result.push_back(std::move(section));
  }
  return result;
}

ShardSpec::Range PartInShare(int64_t offset, int64_t size, int64_t begin, int64_t end) {
  const int64_t first = std::clamp<int64_t>(begin - offset, 0, size);
  const int64_t last = std::clamp<int64_t>(end - offset, first, size);
  return {first, last};
}

}  // namespace plait
