// ShardSpec: which elements of one logical tensor a rank holds. The tensor and expert axes cut a
// box out of the logical tensor; dim 0 may be cut per segment (in_proj is [x | z], gate_up_proj is
// [gate | up]: each segment is split by itself). The shard axis then takes a range of the elements
// of that box in row-major order. Checkpoints store both.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/shape.h"

namespace plait {

struct ShardSpec {
  struct Range {
    int64_t begin = 0;
    int64_t end = 0;
    friend bool operator==(const Range&, const Range&) = default;
  };

  Shape logical_shape;
  // Rows of dim 0 this rank's box has, in order; one range unless the dim is segmented.
  std::vector<Range> dim0_ranges;
  // Ranges of the other dims (index 0 is dim 1).
  std::vector<Range> other_ranges;
  // Elements of the box, in its row-major order, that this rank holds.
  Range elements;

  // Everything on one rank.
  static ShardSpec Whole(const Shape& logical_shape);
  // Part `part` of `parts` equal ones along `dim`. Dim 0 may consist of `segments` equal ones, each
  // cut by itself; they and the parts must divide the dim's size.
  static ShardSpec Part(const Shape& logical_shape, int dim, int64_t segments, int64_t part,
                        int64_t parts);
  Shape box_shape() const;
  bool is_whole() const;
  // Whether the box is the whole tensor.
  bool has_whole_box() const { return box_shape() == logical_shape; }
  // Where element `i` of the box, in its row-major order, is in the logical tensor.
  int64_t LogicalElement(int64_t i) const;

  friend bool operator==(const ShardSpec&, const ShardSpec&) = default;
};

}  // namespace plait
