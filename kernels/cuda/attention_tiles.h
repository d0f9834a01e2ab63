// How attention is cut into blocks: each takes up to `size` queries (or keys) of one document and
// one head and meets the keys (queries) of that document which they see (which see them). Tiles
// start where documents start: a document's bits do not depend on the others.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "base/execution.h"
#include "base/status_macros.h"
#include "kernels/attention_args.h"
#include "kernels/cuda/device_copies.h"

namespace plait::cuda {

// Rows count from the first of the call.
struct AttentionTile {
  int32_t row, rows;   // the block's own
  int32_t begin, end;  // of the other side: those that any of them meets
  int32_t shift;       // query q sees key k where k <= q + shift, if there is a mask
};

namespace tiles_internal {

// Those with most to do first: the last blocks to start are the shortest.
inline absl::StatusOr<const AttentionTile*> OnDevice(Execution& execution,
                                                     std::vector<AttentionTile>& tiles) {
  static_assert(sizeof(AttentionTile) == 5 * sizeof(int32_t));
  std::stable_sort(tiles.begin(), tiles.end(), [](const AttentionTile& a, const AttentionTile& b) {
    return a.end - a.begin > b.end - b.begin;
  });
  PLAIT_ASSIGN_OR_RETURN(const int32_t* copy,
                         DeviceCopy(execution, reinterpret_cast<const int32_t*>(tiles.data()),
                                    static_cast<int64_t>(tiles.size()) * 5));
  return reinterpret_cast<const AttentionTile*>(copy);
}

}  // namespace tiles_internal

struct AttentionTiles {
  const AttentionTile* tiles = nullptr;  // on the device
  int64_t count = 0;
};

inline absl::StatusOr<AttentionTiles> QueryTiles(Execution& execution,
                                                 const AttentionLayout& layout, int size) {
  std::vector<AttentionTile> tiles;
  for (int64_t s = 0; s < layout.documents; ++s) {
    const int32_t query_end = layout.query_offsets[s + 1];
    const int32_t key_begin = layout.key_offsets[s], key_end = layout.key_offsets[s + 1];
    const int32_t shift = key_end - query_end;
    for (int32_t row = layout.query_offsets[s]; row < query_end; row += size) {
      const int32_t rows = std::min(size, query_end - row);
      const int32_t end = layout.mask == AttentionMask::kNone ? key_end : row + rows + shift;
      tiles.push_back({row, rows, key_begin, end, shift});
    }
  }
  if (tiles.empty()) return AttentionTiles();
  PLAIT_ASSIGN_OR_RETURN(const AttentionTile* copy, tiles_internal::OnDevice(execution, tiles));
  return AttentionTiles{copy, static_cast<int64_t>(tiles.size())};
}

inline absl::StatusOr<AttentionTiles> KeyTiles(Execution& execution, const AttentionLayout& layout,
                                               int size) {
  std::vector<AttentionTile> tiles;
  for (int64_t s = 0; s < layout.documents; ++s) {
    const int32_t query_begin = layout.query_offsets[s], query_end = layout.query_offsets[s + 1];
    const int32_t key_end = layout.key_offsets[s + 1], shift = key_end - query_end;
    for (int32_t row = layout.key_offsets[s]; row < key_end; row += size) {
      const int32_t rows = std::min(size, key_end - row);
      const int32_t begin =
          layout.mask == AttentionMask::kNone ? query_begin : std::max(query_begin, row - shift);
      tiles.push_back({row, rows, begin, query_end, shift});
    }
  }
  if (tiles.empty()) return AttentionTiles();
  PLAIT_ASSIGN_OR_RETURN(const AttentionTile* copy, tiles_internal::OnDevice(execution, tiles));
  return AttentionTiles{copy, static_cast<int64_t>(tiles.size())};
}

}  // namespace plait::cuda
