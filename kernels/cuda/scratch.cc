#include "kernels/cuda/scratch.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "kernels/cuda/attention.h"
#include "kernels/cuda/causal_convolution.h"
#include "kernels/cuda/cudnn_attention_calls.h"
#include "kernels/cuda/elementwise.h"
#include "kernels/cuda/embedding.h"
#include "kernels/cuda/expert_routing.h"
#include "kernels/cuda/library_grouped_matmul.h"
#include "kernels/cuda/library_product.h"
#include "kernels/cuda/matmul.h"
#include "kernels/cuda/rms_norm.h"
#include "kernels/cuda/selective_scan.h"

namespace plait::cuda {
namespace {

// [queries, heads] in f32, as cuDNN has the sums of scores.
int64_t SumBytes(const AttentionScratchShape& shape) { return 4 * shape.queries * shape.heads; }

}  // namespace

KernelScratch::Blocks Scratch::Kept() const {
  return has_libraries() ? Blocks{kLibraryWorkspaceBytes} : Blocks();
}

KernelScratch::Blocks Scratch::Matmul(const MatmulScratchShape& shape) const {
  return MatmulScratch(shape);
}

KernelScratch::Blocks Scratch::GroupedMatmul(const GroupedScratchShape& shape) const {
  if (AcceptsLibraryGroups(shape.rows, shape.groups, shape.columns * shape.inner)) {
    return LibraryGroupedScratch(shape);
  }
  const bool is_for_cutlass = has_libraries() && shape.operands == DType::kBf16 &&
                              shape.c == DType::kBf16 && shape.inner % 8 == 0 &&
                              shape.columns % 8 == 0;
  if (!is_for_cutlass || !shape.is_gathered) return {};
  return {shape.rows * shape.inner * static_cast<int64_t>(SizeOf(shape.operands))};
}

KernelScratch::Blocks Scratch::GroupedWeightGradient(const GroupedScratchShape& shape) const {
  if (!AcceptsLibraryGroups(shape.rows, shape.groups, shape.columns * shape.inner)) return {};
  return LibraryGroupedScratch(shape);
}

bool Scratch::IsForCudnn(const AttentionScratchShape& shape) const {
  return has_libraries() && shape.dtype == DType::kBf16 && shape.result == DType::kBf16 &&
         shape.head_dim % 8 == 0 && shape.head_dim <= 256;
}

KernelScratch::Blocks Scratch::AttentionForward(const AttentionScratchShape& shape) const {
  return IsForCudnn(shape) ? Blocks{SumBytes(shape)} : Blocks();
}

KernelScratch::Blocks Scratch::AttentionBackward(const AttentionScratchShape& shape) const {
  if (!IsForCudnn(shape)) return AttentionBackwardScratch(shape);
  std::vector<int32_t> offsets;
  for (int64_t d = 0; d <= shape.documents; ++d) {
    offsets.push_back(static_cast<int32_t>(d * shape.document_tokens));
  }
  const AttentionLayout layout = {.heads = shape.heads,
                                  .kv_heads = shape.kv_heads,
                                  .head_dim = shape.head_dim,
                                  .documents = shape.documents,
                                  .query_offsets = offsets.data(),
                                  .key_offsets = offsets.data()};
  int64_t most = 0;
  for (const CudnnAttentionCall& call : CudnnBackwardCalls(layout, kMaxCudnnScoreBytes)) {
    // Longer documents are for plait's own kernels, but for cuDNN 9.25.
    if (CudnnScoreBytes(layout, call) > kMaxCudnnScoreBytes) return AttentionBackwardScratch(shape);
    most = std::max(most, CudnnBackwardBytes(layout, call));
  }
  return {SumBytes(shape), most};
}

KernelScratch::Blocks Scratch::SelectiveScanForward(const ScanScratchShape& shape) const {
  return SelectiveScanForwardScratch(shape);
}

KernelScratch::Blocks Scratch::SelectiveScanBackward(const ScanScratchShape& shape) const {
  return SelectiveScanBackwardScratch(shape);
}

KernelScratch::Blocks Scratch::CausalConvolutionBackward(DType dtype, int64_t tokens,
                                                         int64_t channels, int64_t width) const {
  return CausalConvolutionBackwardScratch(dtype, tokens, channels, width);
}

KernelScratch::Blocks Scratch::RmsNormBackward(DType dtype, int64_t tokens, int64_t dim) const {
  return RmsNormBackwardScratch(dtype, tokens, dim);
}

KernelScratch::Blocks Scratch::ColumnSum(DType dtype, int64_t rows, int64_t columns) const {
  return ColumnSumScratch(dtype, rows, columns);
}

KernelScratch::Blocks Scratch::EmbeddingBackward(int64_t tokens, int64_t vocabulary) const {
  return EmbeddingBackwardScratch(tokens, vocabulary);
}

KernelScratch::Blocks Scratch::ExpertPermutation(int64_t pairs, int64_t experts) const {
  return ExpertPermutationScratch(pairs, experts);
}

}  // namespace plait::cuda
