#include "kernels/cpu/scratch.h"

#include <algorithm>

#include "kernels/cpu/attention_plan.h"
#include "kernels/cpu/gemm.h"
#include "kernels/selective_scan_args.h"

namespace plait::cpu {
namespace {

constexpr int64_t kFloat = sizeof(float);
constexpr int64_t kLanes = 16;  // f32 of a vector of 512 bits
constexpr int64_t kPanel = 2 * kLanes;

// Sizes of kernels/cpu/selective_scan*-inl.h.
constexpr int64_t kLine = 32, kGroup = 2 * kLine, kStateBlock = 4;
constexpr int64_t kTile = kSelectiveScanCheckpointTokens;
constexpr int64_t kTileLine = kTile * kLine, kTileStates = kTile * kStateBlock * kLanes;
constexpr int64_t kChunkTiles = 16;

AttentionPlan PlanOf(const AttentionScratchShape& shape, std::vector<int32_t>& offsets) {
  offsets.clear();
  for (int64_t d = 0; d <= shape.documents; ++d) {
    offsets.push_back(static_cast<int32_t>(d * shape.document_tokens));
  }
  return AttentionPlan({.heads = shape.heads,
                        .kv_heads = shape.kv_heads,
                        .head_dim = shape.head_dim,
                        .documents = shape.documents,
                        .query_offsets = offsets.data(),
                        .key_offsets = offsets.data()},
                       kPanel);
}

}  // namespace

KernelScratch::Blocks Scratch::Matmul(const MatmulScratchShape& shape) const {
  if (shape.a == DType::kF64 || shape.m * shape.n * shape.k == 0) return {};
  // Sizes of kernels/cpu/gemm.cc.
  constexpr int64_t kRowBlock = 96, kRowStride = kGemmInnerBlock + 16;
  constexpr int64_t kRowTile = 1536, kColumnTile = 256;
  const int64_t used = std::clamp<int64_t>(shape.m * shape.n * shape.k / (1 << 18), 1, threads_);
  const bool partial_sums = shape.c == DType::kBf16 && shape.k > kGemmInnerBlock;
  const int64_t floats = kRowBlock * kRowStride + kGemmInnerBlock * kColumnTile +
                         (partial_sums ? kRowTile * kColumnTile : 0);
  return {used * floats * kFloat};
}

KernelScratch::Blocks Scratch::GroupedMatmul(const GroupedScratchShape& shape) const {
  return Matmul({.a = shape.operands,
                 .b = shape.operands,
                 .c = shape.c,
                 .m = shape.rows,
                 .n = shape.columns,
                 .k = shape.inner});
}

KernelScratch::Blocks Scratch::GroupedWeightGradient(const GroupedScratchShape& shape) const {
  return Matmul({.a = shape.operands,
                 .b = shape.operands,
                 .c = shape.c,
                 .m = shape.columns,
                 .n = shape.inner,
                 .k = shape.rows});
}

KernelScratch::Blocks Scratch::AttentionForward(const AttentionScratchShape& shape) const {
  std::vector<int32_t> offsets;
  const AttentionPlan plan = PlanOf(shape, offsets);
  const int64_t own =
      RoundUp(std::max(kQueryBlock * (2 * plan.padded_dim + kKeyBlock),
                       2 * plan.group * plan.padded_dim + RoundUp(2 * plan.group, 16) + kKeyBlock),
              16);
  return {plan.PackedKeys() * (shape.head_dim + plan.padded_dim) * kFloat, threads_ * own * kFloat};
}

KernelScratch::Blocks Scratch::AttentionBackward(const AttentionScratchShape& shape) const {
  std::vector<int32_t> offsets;
  const AttentionPlan plan = PlanOf(shape, offsets);
  // Equal documents are taken whole, by key/value head, while they are at least 7 / 5 of the
  // threads.
  const int64_t items = shape.documents * shape.kv_heads;
  const bool together = 5 * threads_ <= 7 * items || threads_ == 1;
  const int64_t query_rows =
      together ? plan.group * RoundUp(shape.document_tokens, kQueryBlock) : kQueryBlock;
  const int64_t own = RoundUp(plan.padded_dim * (2 * kQueryBlock + 2 * kKeyBlock + query_rows) +
                                  2 * kQueryBlock * kKeyBlock,
                              16);
  return {plan.PackedKeys() * (2 * shape.head_dim + plan.padded_dim) * kFloat,
          threads_ * own * kFloat};
}

KernelScratch::Blocks Scratch::SelectiveScanForward(const ScanScratchShape& shape) const {
  const int64_t padded = RoundUp(shape.states, kStateBlock);
  const int64_t lines = (shape.channels + kLine - 1) / kLine;
  const int64_t own =
      4 * kTileLine + kTileStates + 2 * padded * kLine + 2 * (kTile * padded + kLine);
  return {std::clamp<int64_t>(lines, 1, threads_) * own * kFloat};
}

KernelScratch::Blocks Scratch::SelectiveScanBackward(const ScanScratchShape& shape) const {
  const int64_t padded = RoundUp(shape.states, kStateBlock);
  const int64_t lines = (shape.channels + kLine - 1) / kLine;
  const int64_t groups = (shape.channels + kGroup - 1) / kGroup;
  const int64_t partial = kTile * padded / kStateBlock * kLanes;
  const int64_t own = 8 * kTileLine + 2 * kTileStates + padded * (kGroup + kLine) +
                      2 * (kTile * padded + kLine) + 2 * partial;
  return {lines * kLine * (2 * padded + 2) * kFloat,
          std::clamp<int64_t>(groups, 1, threads_) * own * kFloat,
          groups * kChunkTiles * kTile * 2 * padded * kFloat};
}

}  // namespace plait::cpu
