#include "kernels/optimizer_update.h"

#include "kernels/cpu/optimizer_update.h"
#include "kernels/cuda/optimizer_update.h"
#include "kernels/reference/optimizer_update.h"
#include "kernels/shape_check.h"

namespace plait {
namespace {

constexpr Implementation<AdamWUpdateArgs> kAdamW[] = {
    {"simd", DeviceKind::kCpu, cpu::AcceptsAdamWUpdate, cpu::AdamWUpdate},
    {"reference", DeviceKind::kCpu, AcceptsAll<AdamWUpdateArgs>, reference::AdamWUpdate},
    {"cuda", DeviceKind::kCuda, cuda::AcceptsAdamWUpdate, cuda::AdamWUpdate},
};
constexpr Implementation<SquaredNormArgs> kSquaredNorm[] = {
    {"simd", DeviceKind::kCpu, cpu::AcceptsSquaredNorm, cpu::SquaredNorm},
    {"reference", DeviceKind::kCpu, AcceptsAll<SquaredNormArgs>, reference::SquaredNorm},
    {"cuda", DeviceKind::kCuda, cuda::AcceptsSquaredNorm, cuda::SquaredNorm},
};

absl::Status Check(const AdamWTensor& tensor, DType dtype, DType compute_dtype) {
  const int64_t elements = tensor.parameter.size;
  PLAIT_RETURN_IF_ERROR(CheckVector("parameter", tensor.parameter, elements));
  PLAIT_RETURN_IF_ERROR(CheckDType("parameter", tensor.parameter.dtype, dtype));
  PLAIT_RETURN_IF_ERROR(CheckVector("gradient", tensor.gradient, elements));
  PLAIT_RETURN_IF_ERROR(CheckDType("gradient", tensor.gradient.dtype, dtype));
  PLAIT_RETURN_IF_ERROR(CheckVector("first_moment", tensor.first_moment, elements));
  PLAIT_RETURN_IF_ERROR(CheckDType("first_moment", tensor.first_moment.dtype, dtype));
  PLAIT_RETURN_IF_ERROR(CheckVector("second_moment", tensor.second_moment, elements));
  PLAIT_RETURN_IF_ERROR(CheckDType("second_moment", tensor.second_moment.dtype, dtype));
  if (!tensor.compute) return absl::OkStatus();
  PLAIT_RETURN_IF_ERROR(CheckVector("compute", tensor.compute, elements));
  return CheckDType("compute", tensor.compute.dtype, compute_dtype);
}

absl::Status Check(const SquaredNormTensor& tensor, DType dtype) {
  PLAIT_RETURN_IF_ERROR(CheckVector("x", tensor.x, tensor.x.size));
  PLAIT_RETURN_IF_ERROR(CheckDType("x", tensor.x.dtype, dtype));
  PLAIT_RETURN_IF_ERROR(
      CheckVector("tile_sums", tensor.tile_sums, SquaredNormTiles(tensor.x.size)));
  return CheckDType("tile_sums", tensor.tile_sums.dtype, DType::kF64);
}

}  // namespace

std::span<const Implementation<AdamWUpdateArgs>> AdamWUpdateImplementations() { return kAdamW; }
std::span<const Implementation<SquaredNormArgs>> SquaredNormImplementations() {
  return kSquaredNorm;
}

absl::Status AdamWUpdate(Execution& execution, const AdamWUpdateArgs& args) {
  if (args.step < 1) {
    return absl::InvalidArgumentError(
        absl::StrCat("step: expected 1 or more (steps count from 1), got ", args.step));
  }
  const DType dtype = args.dtype(), compute_dtype = args.compute_dtype();
  for (const AdamWTensor& tensor : args.tensors) {
    PLAIT_RETURN_IF_ERROR(Annotate(Check(tensor, dtype, compute_dtype), tensor.name));
  }
  return RunFirstAccepted(execution, "adamw_update", AdamWUpdateImplementations(), args);
}

absl::Status SquaredNorm(Execution& execution, const SquaredNormArgs& args) {
  const DType dtype = args.dtype();
  for (const SquaredNormTensor& tensor : args.tensors) {
    PLAIT_RETURN_IF_ERROR(Annotate(Check(tensor, dtype), tensor.name));
  }
  return RunFirstAccepted(execution, "squared_norm", SquaredNormImplementations(), args);
}

}  // namespace plait
