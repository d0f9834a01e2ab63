#include "checkpoint/shard_overlap.h"

#include <algorithm>

#include "base/check.h"

namespace plait {
namespace {

using Range = ShardSpec::Range;

bool LiesIn(const Range& range, int64_t size) {
  return 0 <= range.begin && range.begin <= range.end && range.end <= size;
}

int64_t SizeOf(const Range& range) { return range.end - range.begin; }

// Appends what of the run lies in `elements` of the box; counts the shard from elements.begin.
void AppendClipped(int64_t logical, int64_t box, int64_t length, const Range& elements,
                   std::vector<ShardRun>& runs) {
  const int64_t begin = std::max(box, elements.begin);
  const int64_t end = std::min(box + length, elements.end);
  if (begin >= end) return;
  const ShardRun run{logical + begin - box, begin - elements.begin, end - begin};
  if (!runs.empty() && runs.back().logical + runs.back().length == run.logical) {
    runs.back().length += run.length;
  } else {
    runs.push_back(run);
  }
}

// The row of dim 0 that is `index` in the box.
int64_t RowOf(const std::vector<Range>& dim0_ranges, int64_t index) {
  for (const Range& range : dim0_ranges) {
    if (index < SizeOf(range)) return range.begin + index;
    index -= SizeOf(range);
  }
  PLAIT_CHECK(false);
  return 0;
}

// The last dim that the box cuts, 0 where it cuts no other: everything inside is contiguous.
int LastCutDim(const ShardSpec& spec) {
  int dim = spec.logical_shape.rank() - 1;
  while (dim > 0 && spec.other_ranges[dim - 1] == Range{0, spec.logical_shape[dim]}) --dim;
  return std::max(dim, 0);
}

}  // namespace

bool IsConsistent(const ShardSpec& spec) {
  const int rank = spec.logical_shape.rank();
  if (static_cast<int>(spec.other_ranges.size()) != std::max(rank - 1, 0)) return false;
  if (rank == 0 && !spec.dim0_ranges.empty()) return false;
  int64_t last = 0;
  for (const Range& range : spec.dim0_ranges) {
    if (range.begin < last || !LiesIn(range, spec.logical_shape[0])) return false;
    last = range.end;
  }
  for (int dim = 1; dim < rank; ++dim) {
    if (!LiesIn(spec.other_ranges[dim - 1], spec.logical_shape[dim])) return false;
  }
  return LiesIn(spec.elements, spec.box_shape().num_elements());
}

std::vector<ShardRun> RunsOf(const ShardSpec& spec) {
  const Shape& shape = spec.logical_shape;
  std::vector<ShardRun> runs;
  if (spec.elements.begin == spec.elements.end) return runs;
  if (shape.rank() == 0) return {{0, 0, 1}};

  const int cut = LastCutDim(spec);
  int64_t inside = 1;  // elements of one index of the cut dim
  for (int dim = cut + 1; dim < shape.rank(); ++dim) inside *= shape[dim];
  if (cut == 0) {
    int64_t box = 0;
    for (const Range& range : spec.dim0_ranges) {
      AppendClipped(range.begin * inside, box, SizeOf(range) * inside, spec.elements, runs);
      box += SizeOf(range) * inside;
    }
    return runs;
  }
  const int64_t length = SizeOf(spec.other_ranges[cut - 1]) * inside;
  const Shape box_shape = spec.box_shape();
  for (int64_t row = spec.elements.begin / length; row * length < spec.elements.end; ++row) {
    // The row's coordinates in the box, from the inside out, as an offset in the tensor.
    int64_t logical = spec.other_ranges[cut - 1].begin * inside;
    int64_t stride = shape[cut] * inside;
    int64_t index = row;
    for (int dim = cut - 1; dim > 0; --dim) {
      logical += (spec.other_ranges[dim - 1].begin + index % box_shape[dim]) * stride;
      index /= box_shape[dim];
      stride *= shape[dim];
    }
    logical += RowOf(spec.dim0_ranges, index) * stride;
    AppendClipped(logical, row * length, length, spec.elements, runs);
  }
  return runs;
}

std::vector<ShardCopy> OverlapOf(std::span<const ShardRun> stored,
                                 std::span<const ShardRun> wanted) {
  std::vector<ShardCopy> copies;
  for (size_t s = 0, w = 0; s < stored.size() && w < wanted.size();) {
    const int64_t stored_end = stored[s].logical + stored[s].length;
    const int64_t wanted_end = wanted[w].logical + wanted[w].length;
    const int64_t begin = std::max(stored[s].logical, wanted[w].logical);
    const int64_t end = std::min(stored_end, wanted_end);
    if (begin < end) {
      copies.push_back({stored[s].shard + begin - stored[s].logical,
                        wanted[w].shard + begin - wanted[w].logical, end - begin});
    }
    if (stored_end <= wanted_end) ++s;
    if (wanted_end <= stored_end) ++w;
  }
  return copies;
}

}  // namespace plait
