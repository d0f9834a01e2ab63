// A microbatch in segments of whole checkpoints, so that few channels fill a device, too: each
// segment is summarised (selective_scan_summary_args.h), the summaries are carried on from segment
// to segment, and the scan runs over all segments at once from the true states.
#pragma once

#include <algorithm>
#include <cstdint>

#include "absl/status/statusor.h"
#include "base/execution.h"
#include "base/tensor.h"
#include "kernels/scratch.h"
#include "kernels/selective_scan_args.h"

namespace plait::cuda {

// Channels of a block, one a thread: at most.
inline constexpr int64_t kScanThreads = 128;

// Segment s: tokens [begin(s), end(s)); at least one segment.
struct ScanSegments {
  int64_t tokens, segment_tokens;

  constexpr int64_t count() const {
    return tokens <= segment_tokens ? 1 : (tokens + segment_tokens - 1) / segment_tokens;
  }
  constexpr int64_t begin(int64_t segment) const { return segment * segment_tokens; }
  constexpr int64_t end(int64_t segment) const {
    return std::min((segment + 1) * segment_tokens, tokens);
  }
};

// By shape alone, so that bits do not depend on the device. A few blocks less than there are
// multiprocessors are better than the summaries; where there are fewer, two a multiprocessor.
inline ScanSegments CutIntoScanSegments(int64_t tokens, int64_t channels) {
  constexpr int64_t kEnoughBlocks = 96, kWantedBlocks = 264, kFewestTokens = 64;
  const int64_t blocks = std::max<int64_t>(1, (channels + kScanThreads - 1) / kScanThreads);
  int64_t segments = blocks >= kEnoughBlocks ? 1 : (kWantedBlocks + blocks - 1) / blocks;
  segments = std::clamp<int64_t>(segments, 1, std::max<int64_t>(1, tokens / kFewestTokens));
  constexpr int64_t kTile = kSelectiveScanCheckpointTokens;
  const int64_t tiles = (tokens + segments * kTile - 1) / (segments * kTile);
  return {tokens, std::max<int64_t>(1, tiles) * kTile};
}

// offsets: document_offsets on the device. Results: [segments x states, channels], of use where a
// segment begins (ends) inside a document.
absl::StatusOr<Tensor> StatesBeforeSegments(Execution& execution,
                                            const SelectiveScanForwardArgs& args,
                                            const int32_t* offsets, const ScanSegments& segments);
absl::StatusOr<Tensor> StateGradientsAfterSegments(Execution& execution,
                                                   const SelectiveScanBackwardArgs& args,
                                                   const int32_t* offsets,
                                                   const ScanSegments& segments);

// What either takes while it runs; the first block is the result.
KernelScratch::Blocks StatesAtSegmentsScratch(const ScanScratchShape& shape,
                                              const ScanSegments& segments);

// Contiguous, of f32 or f64: for arguments that results may lie upon.
absl::StatusOr<Tensor> CopyOfStates(Execution& execution, const ConstMatrixView& states);

}  // namespace plait::cuda
