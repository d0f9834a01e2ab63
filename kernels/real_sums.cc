#include "kernels/real_sums.h"

#include "kernels/cuda/real_sums.h"
#include "kernels/reference/real_sums.h"
#include "kernels/shape_check.h"

namespace plait {
namespace {

constexpr Implementation<RealRowSumsArgs> kRows[] = {
    {"reference", DeviceKind::kCpu, AcceptsAll<RealRowSumsArgs>, reference::RealRowSums},
    {"cuda", DeviceKind::kCuda, AcceptsAll<RealRowSumsArgs>, cuda::RealRowSums},
};
constexpr Implementation<RealExpertSumsArgs> kExperts[] = {
    {"reference", DeviceKind::kCpu, AcceptsAll<RealExpertSumsArgs>, reference::RealExpertSums},
    {"cuda", DeviceKind::kCuda, AcceptsAll<RealExpertSumsArgs>, cuda::RealExpertSums},
};

absl::Status CheckResult(absl::string_view name, const VectorView& view, int64_t size) {
  PLAIT_RETURN_IF_ERROR(CheckVector(name, view, size));
  return CheckDType(name, view.dtype, DType::kF64);
}

absl::Status CheckNumbers(absl::string_view name, DType dtype) {
  if (dtype == DType::kF32 || dtype == DType::kF64) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(name, ": expected f32 or f64, got ", Name(dtype)));
}

}  // namespace

std::span<const Implementation<RealRowSumsArgs>> RealRowSumsImplementations() { return kRows; }
std::span<const Implementation<RealExpertSumsArgs>> RealExpertSumsImplementations() {
  return kExperts;
}

absl::Status RealRowSums(Execution& execution, const RealRowSumsArgs& args) {
  const int64_t rows = args.values.rows, columns = args.values.columns;
  PLAIT_RETURN_IF_ERROR(CheckVector("real", args.real, rows));
  PLAIT_RETURN_IF_ERROR(CheckNumbers("real", args.real.dtype));
  PLAIT_RETURN_IF_ERROR(CheckNumbers("values", args.values.dtype));
  if (args.sums) PLAIT_RETURN_IF_ERROR(CheckResult("sums", args.sums, columns));
  if (args.maxima) PLAIT_RETURN_IF_ERROR(CheckResult("maxima", args.maxima, columns));
  return RunFirstAccepted(execution, "sums over real rows", RealRowSumsImplementations(), args);
}

absl::Status RealExpertSums(Execution& execution, const RealExpertSumsArgs& args) {
  const int64_t rows = args.real.size * args.experts_per_token;
  PLAIT_RETURN_IF_ERROR(CheckNumbers("real", args.real.dtype));
  PLAIT_RETURN_IF_ERROR(CheckVector("square_sum", args.square_sum, rows));
  PLAIT_RETURN_IF_ERROR(CheckVector("pair_weight", args.pair_weight, rows));
  PLAIT_RETURN_IF_ERROR(CheckDType("pair_weight", args.pair_weight.dtype, args.square_sum.dtype));
  PLAIT_RETURN_IF_ERROR(CheckNumbers("square_sum", args.square_sum.dtype));
  PLAIT_RETURN_IF_ERROR(CheckVector("absolute_max", args.absolute_max, rows));
  PLAIT_RETURN_IF_ERROR(CheckDType("absolute_max", args.absolute_max.dtype, args.square_sum.dtype));
  PLAIT_RETURN_IF_ERROR(CheckResult("tokens", args.tokens, args.tokens.size));
  PLAIT_RETURN_IF_ERROR(CheckResult("square_sums", args.square_sums, args.tokens.size));
  PLAIT_RETURN_IF_ERROR(CheckResult("maxima", args.maxima, args.tokens.size));
  return RunFirstAccepted(execution, "sums over experts", RealExpertSumsImplementations(), args);
}

}  // namespace plait
