#include "kernels/piece_sum.h"

#include "kernels/cuda/piece_sum.h"
#include "kernels/reference/piece_sum.h"
#include "kernels/shape_check.h"

namespace plait {
namespace {

constexpr Implementation<PieceSumArgs> kImplementations[] = {
    {"reference", DeviceKind::kCpu, AcceptsAll<PieceSumArgs>, reference::PieceSum},
    {"cuda", DeviceKind::kCuda, AcceptsAll<PieceSumArgs>, cuda::PieceSum},
};

}  // namespace

std::span<const Implementation<PieceSumArgs>> PieceSumImplementations() { return kImplementations; }

absl::Status PieceSum(Execution& execution, const PieceSumArgs& args) {
  PLAIT_RETURN_IF_ERROR(CheckMatrix("pieces", args.pieces, args.pieces.rows, args.total.size));
  if (args.total.dtype != DType::kF32 && args.total.dtype != DType::kF64) {
    return absl::InvalidArgumentError(
        absl::StrCat("total: expected f32 or f64, got ", Name(args.total.dtype)));
  }
  if (args.pieces.dtype != DType::kBf16) {
    PLAIT_RETURN_IF_ERROR(CheckDType("pieces", args.pieces.dtype, args.total.dtype));
  }
  return RunFirstAccepted(execution, "sum of pieces", PieceSumImplementations(), args);
}

}  // namespace plait
