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

}  // namespace

std::span<const Implementation<AdamWUpdateArgs>> AdamWUpdateImplementations() { return kAdamW; }
std::span<const Implementation<SquaredNormArgs>> SquaredNormImplementations() {
  return kSquaredNorm;
}

absl::Status AdamWUpdate(Execution& execution, const AdamWUpdateArgs& args) {
  const int64_t elements = args.parameter.size;
  const DType dtype = args.parameter.dtype;
  PLAIT_RETURN_IF_ERROR(CheckVector("parameter", args.parameter, elements));
  PLAIT_RETURN_IF_ERROR(CheckVector("gradient", args.gradient, elements));
  PLAIT_RETURN_IF_ERROR(CheckDType("gradient", args.gradient.dtype, dtype));
  PLAIT_RETURN_IF_ERROR(CheckVector("first_moment", args.first_moment, elements));
  PLAIT_RETURN_IF_ERROR(CheckDType("first_moment", args.first_moment.dtype, dtype));
  PLAIT_RETURN_IF_ERROR(CheckVector("second_moment", args.second_moment, elements));
  PLAIT_RETURN_IF_ERROR(CheckDType("second_moment", args.second_moment.dtype, dtype));
  if (args.compute) PLAIT_RETURN_IF_ERROR(CheckVector("compute", args.compute, elements));
  if (args.step < 1)
    return absl::InvalidArgumentError(
        absl::StrCat("step: expected 1 or more (steps count from 1), got ", args.step));
  return RunFirstAccepted(execution, "adamw_update", AdamWUpdateImplementations(), args);
}

absl::Status SquaredNorm(Execution& execution, const SquaredNormArgs& args) {
  PLAIT_RETURN_IF_ERROR(CheckVector("x", args.x, args.x.size));
  PLAIT_RETURN_IF_ERROR(CheckVector("tile_sums", args.tile_sums,
                                    (args.x.size + kSquaredNormTile - 1) / kSquaredNormTile));
  if (args.tile_sums.dtype != DType::kF64) {
    return absl::InvalidArgumentError(
        absl::StrCat("tile_sums: expected f64, got ", Name(args.tile_sums.dtype)));
  }
  return RunFirstAccepted(execution, "squared_norm", SquaredNormImplementations(), args);
}

}  // namespace plait
