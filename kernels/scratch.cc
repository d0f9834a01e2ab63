#include "kernels/scratch.h"

#include <algorithm>

#include "kernels/cpu/attention_plan.h"
#include "kernels/cpu/gemm.h"
#include "kernels/selective_scan_args.h"

namespace plait {
namespace {

constexpr int64_t kFloat = sizeof(float);
constexpr int64_t kLanes = 16;  // f32 of a vector of 512 bits
constexpr int64_t kPanel = 2 * kLanes;

int64_t RoundUp(int64_t value, int64_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

// Sizes of kernels/cpu/selective_scan*-inl.h.
constexpr int64_t kLine = 32, kGroup = 2 * kLine, kStateBlock = 4;
constexpr int64_t kTile = kSelectiveScanCheckpointTokens;
constexpr int64_t kTileLine = kTile * kLine, kTileStates = kTile * kStateBlock * kLanes;
constexpr int64_t kChunkTiles = 16;

cpu::AttentionPlan PlanOf(const AttentionScratchShape& shape, std::vector<int32_t>& offsets) {
  offsets.clear();
  for (int64_t d = 0; d <= shape.documents; ++d) {
    offsets.push_back(static_cast<int32_t>(d * shape.document_tokens));
  }
  return cpu::AttentionPlan({.heads = shape.heads,
                             .kv_heads = shape.kv_heads,
                             .head_dim = shape.head_dim,
                             .documents = shape.documents,
                             .query_offsets = offsets.data(),
                             .key_offsets = offsets.data()},
                            kPanel);
}

}  // namespace

std::vector<int64_t> MatmulScratch(DType operands, DType output, int64_t m, int64_t n, int64_t k,
                                   int threads) {
  if (operands == DType::kF64 || m * n * k == 0) return {};
  // Sizes of kernels/cpu/gemm.cc.
  constexpr int64_t kRowBlock = 96, kRowStride = cpu::kGemmInnerBlock + 16;
  constexpr int64_t kRowTile = 1536, kColumnTile = 256;
  const int64_t used = std::clamp<int64_t>(m * n * k / (1 << 18), 1, threads);
  const bool partial_sums = output == DType::kBf16 && k > cpu::kGemmInnerBlock;
  const int64_t floats = kRowBlock * kRowStride + cpu::kGemmInnerBlock * kColumnTile +
                         (partial_sums ? kRowTile * kColumnTile : 0);
  return {used * floats * kFloat};
}

std::vector<int64_t> AttentionForwardScratch(const AttentionScratchShape& shape, int threads) {
  std::vector<int32_t> offsets;
  const cpu::AttentionPlan plan = PlanOf(shape, offsets);
  const int64_t own = RoundUp(
      std::max(cpu::kQueryBlock * (2 * plan.padded_dim + cpu::kKeyBlock),
               2 * plan.group * plan.padded_dim + RoundUp(2 * plan.group, 16) + cpu::kKeyBlock),
      16);
  return {plan.PackedKeys() * (shape.head_dim + plan.padded_dim) * kFloat, threads * own * kFloat};
}

std::vector<int64_t> AttentionBackwardScratch(const AttentionScratchShape& shape, int threads) {
  std::vector<int32_t> offsets;
  const cpu::AttentionPlan plan = PlanOf(shape, offsets);
  // Equal documents are taken whole, by key/value head, while they are at least 7 / 5 of the
  // threads.
  const int64_t items = shape.documents * shape.kv_heads;
  const bool together = 5 * threads <= 7 * items || threads == 1;
  const int64_t query_rows =
      together ? plan.group * RoundUp(shape.document_tokens, cpu::kQueryBlock) : cpu::kQueryBlock;
  const int64_t own =
      RoundUp(plan.padded_dim * (2 * cpu::kQueryBlock + 2 * cpu::kKeyBlock + query_rows) +
                  2 * cpu::kQueryBlock * cpu::kKeyBlock,
              16);
  return {plan.PackedKeys() * (2 * shape.head_dim + plan.padded_dim) * kFloat,
          threads * own * kFloat};
}

std::vector<int64_t> SelectiveScanForwardScratch(int64_t channels, int64_t states, int threads) {
  const int64_t padded = RoundUp(states, kStateBlock), lines = (channels + kLine - 1) / kLine;
  const int64_t own =
      4 * kTileLine + kTileStates + 2 * padded * kLine + 2 * (kTile * padded + kLine);
  return {std::clamp<int64_t>(lines, 1, threads) * own * kFloat};
}

std::vector<int64_t> SelectiveScanBackwardScratch(int64_t channels, int64_t states, int threads) {
  const int64_t padded = RoundUp(states, kStateBlock), lines = (channels + kLine - 1) / kLine;
  const int64_t groups = (channels + kGroup - 1) / kGroup;
  const int64_t partial = kTile * padded / kStateBlock * kLanes;
  const int64_t own = 8 * kTileLine + 2 * kTileStates + padded * (kGroup + kLine) +
                      2 * (kTile * padded + kLine) + 2 * partial;
  return {lines * kLine * (2 * padded + 2) * kFloat,
          std::clamp<int64_t>(groups, 1, threads) * own * kFloat,
          groups * kChunkTiles * kTile * 2 * padded * kFloat};
}

}  // namespace plait
