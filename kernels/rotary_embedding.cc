#include "kernels/rotary_embedding.h"

#include "kernels/cpu/rotary_embedding.h"
#include "kernels/cuda/rotary_embedding.h"
#include "kernels/reference/rotary_embedding.h"
#include "kernels/shape_check.h"

namespace plait {
namespace {

constexpr Implementation<RotaryEmbeddingArgs> kImplementations[] = {
    {"simd", DeviceKind::kCpu, cpu::AcceptsRotaryEmbedding, cpu::RotaryEmbedding},
    {"reference", DeviceKind::kCpu, AcceptsAll<RotaryEmbeddingArgs>, reference::RotaryEmbedding},
    {"cuda", DeviceKind::kCuda, cuda::AcceptsRotaryEmbedding, cuda::RotaryEmbedding},
};

}  // namespace

std::span<const Implementation<RotaryEmbeddingArgs>> RotaryEmbeddingImplementations() {
  return kImplementations;
}

absl::Status RotaryEmbedding(Execution& execution, const RotaryEmbeddingArgs& args) {
  if (args.head_dim <= 0 || args.head_dim % 2 != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("head_dim: expected an even number, got ", args.head_dim));
  }
  if (!(args.theta > 0)) {
    return absl::InvalidArgumentError(
        absl::StrCat("theta: expected a positive number, got ", args.theta));
  }
  PLAIT_RETURN_IF_ERROR(CheckMatrix("x", args.x, args.x.rows, args.heads * args.head_dim));
  if (args.positions == nullptr && args.x.rows > 0)
    return absl::InvalidArgumentError("positions: no data");
  const bool on_host = execution.device().kind == DeviceKind::kCpu;
  for (int64_t t = 0; on_host && t < args.x.rows; ++t) {
    if (args.positions[t] < 0) {
      return absl::InvalidArgumentError(
          absl::StrCat("positions[", t, "]: expected 0 or more, got ", args.positions[t]));
    }
  }
  return RunFirstAccepted(execution, "rotary_embedding", RotaryEmbeddingImplementations(), args);
}

}  // namespace plait
