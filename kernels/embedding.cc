#include "kernels/embedding.h"

#include "kernels/cpu/embedding.h"
#include "kernels/cuda/embedding.h"
#include "kernels/reference/embedding.h"
#include "kernels/shape_check.h"

namespace plait {
namespace {

constexpr Implementation<EmbeddingForwardArgs> kForward[] = {
    {"simd", DeviceKind::kCpu, cpu::AcceptsEmbeddingForward, cpu::EmbeddingForward},
    {"reference", DeviceKind::kCpu, AcceptsAll<EmbeddingForwardArgs>, reference::EmbeddingForward},
    {"cuda", DeviceKind::kCuda, cuda::AcceptsEmbeddingForward, cuda::EmbeddingForward},
};
constexpr Implementation<EmbeddingBackwardArgs> kBackward[] = {
    {"simd", DeviceKind::kCpu, cpu::AcceptsEmbeddingBackward, cpu::EmbeddingBackward},
    {"reference", DeviceKind::kCpu, AcceptsAll<EmbeddingBackwardArgs>,
     reference::EmbeddingBackward},
    {"cuda", DeviceKind::kCuda, cuda::AcceptsEmbeddingBackward, cuda::EmbeddingBackward},
};

// On a device ids are not looked at: whoever moved them there has.
absl::Status CheckIds(const Execution& execution, const int32_t* ids, int64_t tokens,
                      int64_t vocabulary) {
  if (ids == nullptr && tokens > 0) return absl::InvalidArgumentError("ids: no data");
  if (execution.device().kind != DeviceKind::kCpu) return absl::OkStatus();
  for (int64_t t = 0; t < tokens; ++t) {
    if (ids[t] >= vocabulary) {
      return absl::InvalidArgumentError(
          absl::StrCat("ids[", t, "]: expected an id below ", vocabulary, ", got ", ids[t],
                       "; the tokens were made with another vocabulary than the model's"));
    }
  }
  return absl::OkStatus();
}

}  // namespace

std::span<const Implementation<EmbeddingForwardArgs>> EmbeddingForwardImplementations() {
  return kForward;
}
std::span<const Implementation<EmbeddingBackwardArgs>> EmbeddingBackwardImplementations() {
  return kBackward;
}

absl::Status EmbeddingForward(Execution& execution, const EmbeddingForwardArgs& args) {
  PLAIT_RETURN_IF_ERROR(CheckMatrix("table", args.table, args.table.rows, args.y.columns));
  PLAIT_RETURN_IF_ERROR(CheckMatrix("y", args.y, args.y.rows, args.table.columns));
  PLAIT_RETURN_IF_ERROR(CheckIds(execution, args.ids, args.y.rows, args.table.rows));
  return RunFirstAccepted(execution, "embedding forward", EmbeddingForwardImplementations(), args);
}

absl::Status EmbeddingBackward(Execution& execution, const EmbeddingBackwardArgs& args) {
  PLAIT_RETURN_IF_ERROR(CheckMatrix("dtable", args.dtable, args.dtable.rows, args.dy.columns));
  PLAIT_RETURN_IF_ERROR(CheckMatrix("dy", args.dy, args.dy.rows, args.dtable.columns));
  PLAIT_RETURN_IF_ERROR(CheckIds(execution, args.ids, args.dy.rows, args.dtable.rows));
  return RunFirstAccepted(execution, "embedding backward", EmbeddingBackwardImplementations(),
                          args);
}

}  // namespace plait
