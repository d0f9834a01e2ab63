// Time of a packed microbatch cut at the edges of documents and of the scan's checkpoints. A tile
// is the tokens between two checkpoints.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "kernels/selective_scan_args.h"

namespace plait::cpu {

struct ScanSegment {
  int64_t begin, end;  // tokens; equal for an empty document
  int64_t document;
  bool starts, ends;  // whether the document does so here
};

class ScanSegments {
 public:
  ScanSegments(int64_t documents, const int32_t* document_offsets) {
    const int64_t tokens = document_offsets[documents];
    num_tiles_ = std::max<int64_t>(1, NumSelectiveScanCheckpoints(tokens));
    tile_begin_.push_back(0);
    for (int64_t document = 0; document < documents; ++document) {
      const int64_t end = document_offsets[document + 1];
      int64_t begin = document_offsets[document];
      bool starts = true;
      do {
        // An empty last document belongs to the last tile.
        const int64_t tile = std::min(begin / kSelectiveScanCheckpointTokens, num_tiles_ - 1);
        while (static_cast<int64_t>(tile_begin_.size()) <= tile) {
          tile_begin_.push_back(segments_.size());
        }
        const int64_t cut = std::min(end, (tile + 1) * kSelectiveScanCheckpointTokens);
        segments_.push_back({begin, cut, document, starts, cut == end});
        starts = false;
        begin = cut;
      } while (begin < end);
    }
    while (static_cast<int64_t>(tile_begin_.size()) <= num_tiles_) {
      tile_begin_.push_back(segments_.size());
    }
  }

  int64_t num_tiles() const { return num_tiles_; }
  // The tile's segments in order of time.
  const ScanSegment* begin(int64_t tile) const { return segments_.data() + tile_begin_[tile]; }
  const ScanSegment* end(int64_t tile) const { return segments_.data() + tile_begin_[tile + 1]; }

 private:
  int64_t num_tiles_;
  std::vector<ScanSegment> segments_;
  std::vector<size_t> tile_begin_;
};

}  // namespace plait::cpu
