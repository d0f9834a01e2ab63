#include "kernels/indexed_numbers.h"

#include "kernels/cuda/indexed_numbers.h"
#include "kernels/reference/indexed_numbers.h"
#include "kernels/shape_check.h"

namespace plait {
namespace {

constexpr Implementation<GatherNumbersArgs> kGather[] = {
    {"reference", DeviceKind::kCpu, AcceptsAll<GatherNumbersArgs>, reference::GatherNumbers},
    {"cuda", DeviceKind::kCuda, AcceptsAll<GatherNumbersArgs>, cuda::GatherNumbers},
};
constexpr Implementation<ScatterNumbersArgs> kScatter[] = {
    {"reference", DeviceKind::kCpu, AcceptsAll<ScatterNumbersArgs>, reference::ScatterNumbers},
    {"cuda", DeviceKind::kCuda, AcceptsAll<ScatterNumbersArgs>, cuda::ScatterNumbers},
};

absl::Status CheckNumbers(const ConstVectorView& values, const VectorView& out) {
  if (values.dtype != DType::kF32 && values.dtype != DType::kF64) {
    return absl::InvalidArgumentError(
        absl::StrCat("values: expected f32 or f64, got ", Name(values.dtype)));
  }
  return CheckDType("out", out.dtype, values.dtype);
}

}  // namespace

std::span<const Implementation<GatherNumbersArgs>> GatherNumbersImplementations() {
  return kGather;
}
std::span<const Implementation<ScatterNumbersArgs>> ScatterNumbersImplementations() {
  return kScatter;
}

absl::Status GatherNumbers(Execution& execution, const GatherNumbersArgs& args) {
  PLAIT_RETURN_IF_ERROR(CheckNumbers(args.values, args.out));
  return RunFirstAccepted(execution, "gather of numbers", GatherNumbersImplementations(), args);
}

absl::Status ScatterNumbers(Execution& execution, const ScatterNumbersArgs& args) {
  PLAIT_RETURN_IF_ERROR(CheckNumbers(args.values, args.out));
  PLAIT_RETURN_IF_ERROR(CheckVector("out", args.out, args.values.size));
  return RunFirstAccepted(execution, "scatter of numbers", ScatterNumbersImplementations(), args);
}

}  // namespace plait
