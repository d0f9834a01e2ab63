#include "parallel/shard_spec.h"

#include <array>

namespace plait {

ShardSpec ShardSpec::Whole(const Shape& logical_shape) {
  ShardSpec spec;
  spec.logical_shape = logical_shape;
  if (logical_shape.rank() > 0) spec.dim0_ranges.push_back({0, logical_shape[0]});
  for (int dim = 1; dim < logical_shape.rank(); ++dim) {
    spec.other_ranges.push_back({0, logical_shape[dim]});
  }
  spec.elements = {0, logical_shape.num_elements()};
  return spec;
}

Shape ShardSpec::box_shape() const {
  std::array<int64_t, Shape::kMaxRank> sizes{};
  const int rank = logical_shape.rank();
  for (const Range& range : dim0_ranges) sizes[0] += range.end - range.begin;
  for (int dim = 1; dim < rank; ++dim) {
    sizes[dim] = other_ranges[dim - 1].end - other_ranges[dim - 1].begin;
  }
  return Shape(std::span<const int64_t>(sizes.data(), static_cast<size_t>(rank)));
}

bool ShardSpec::is_whole() const {
  // Ranges are ascending and disjoint, so sizes decide; segments that touch are whole as well.
  return box_shape() == logical_shape && elements == Range{0, logical_shape.num_elements()};
}

}  // namespace plait
