#include "parallel/shard_spec.h"

#include <array>
#include <utility>

#include "base/check.h"

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

ShardSpec ShardSpec::Part(const Shape& logical_shape, int dim, int64_t segments, int64_t part,
                          int64_t parts) {
  PLAIT_CHECK(dim == 0 || segments == 1);
  PLAIT_CHECK_EQ(logical_shape[dim] % (segments * parts), 0);
  ShardSpec spec = Whole(logical_shape);
  const int64_t segment = logical_shape[dim] / segments, size = segment / parts;
  std::vector<Range> ranges;
  for (int64_t i = 0; i < segments; ++i) {
    const int64_t begin = i * segment + part * size;
    ranges.push_back({begin, begin + size});
  }
  if (dim == 0) {
    spec.dim0_ranges = std::move(ranges);
  } else {
    spec.other_ranges[dim - 1] = ranges[0];
  }
  spec.elements = {0, spec.box_shape().num_elements()};
  return spec;
}

int64_t ShardSpec::LogicalElement(int64_t i) const {
  int64_t logical = 0, stride = 1;
  for (int dim = logical_shape.rank() - 1; dim > 0; --dim) {
    const Range& range = other_ranges[dim - 1];
    const int64_t size = range.end - range.begin;
    logical += (range.begin + i % size) * stride;
    i /= size;
    stride *= logical_shape[dim];
  }
  for (const Range& range : dim0_ranges) {
    const int64_t size = range.end - range.begin;
    if (i < size) return logical + (range.begin + i) * stride;
    i -= size;
  }
  return logical;  // of rank 0
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
