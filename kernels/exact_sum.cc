#include "kernels/exact_sum.h"

#include "kernels/cpu/exact_sum.h"
#include "kernels/cuda/exact_sum.h"
#include "kernels/reference/exact_sum.h"
#include "kernels/shape_check.h"

namespace plait {
namespace {

constexpr Implementation<ExactSumsArgs> kExactSums[] = {
    {"threads", DeviceKind::kCpu, AcceptsAll<ExactSumsArgs>, cpu::ExactSums},
    {"reference", DeviceKind::kCpu, AcceptsAll<ExactSumsArgs>, reference::ExactSums},
    {"cuda", DeviceKind::kCuda, AcceptsAll<ExactSumsArgs>, cuda::ExactSums},
};

}  // namespace

std::span<const Implementation<ExactSumsArgs>> ExactSumsImplementations() { return kExactSums; }

absl::Status ExactSums(Execution& execution, const ExactSumsArgs& args) {
  PLAIT_RETURN_IF_ERROR(CheckVector("x", args.x, args.x.size));
  PLAIT_RETURN_IF_ERROR(CheckDType("x", args.x.dtype, DType::kF64));
  PLAIT_RETURN_IF_ERROR(
      CheckVector("words", args.words, NumExactSums(args.x.size) * kExactSumWords));
  PLAIT_RETURN_IF_ERROR(CheckDType("words", args.words.dtype, DType::kI64));
  return RunFirstAccepted(execution, "exact_sums", ExactSumsImplementations(), args);
}

}  // namespace plait
