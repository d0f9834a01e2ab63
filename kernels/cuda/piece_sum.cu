#include <algorithm>

#include "kernels/cuda/device.h"
#include "kernels/cuda/dispatch.h"
#include "kernels/cuda/piece_sum.h"

namespace plait::cuda {
namespace {

constexpr int kBlockThreads = 256;
constexpr int64_t kMaxBlocks = int64_t{1} << 20;

// T: of the pieces; A: of the total.
template <class T, class A>
__global__ void __launch_bounds__(kBlockThreads) PieceSumKernel(PieceSumArgs args) {
  A* total = args.total.as<A>();
  const int64_t step = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < args.total.size;
       i += step) {
    A sum = 0;
    for (int64_t piece = 0; piece < args.pieces.rows; ++piece) {
      A value = Load(args.pieces.row<T>(piece)[i]);
      if constexpr (std::is_same_v<A, float>) {
        if (args.round_to_bf16) value = Load(Round<BFloat16>(value));
      }
      sum = piece == 0 ? value : sum + value;
    }
    total[i] += sum;
  }
}

}  // namespace

absl::Status PieceSum(Execution& execution, const PieceSumArgs& args) {
  if (args.pieces.rows == 0) return absl::OkStatus();
  const auto blocks = static_cast<unsigned>(
      std::min(kMaxBlocks, (args.total.size + kBlockThreads - 1) / kBlockThreads));
  const auto launch = [&](auto kernel) {
    return ToStatus(
        LaunchKernel(kernel, {blocks}, {kBlockThreads}, 0, execution.compute().handle(), args),
        "sum of pieces");
  };
  return DispatchWide(args.total.dtype, [&](auto a) {
    using A = typename decltype(a)::Type;
    if (args.pieces.dtype == DType::kBf16) return launch(PieceSumKernel<BFloat16, A>);
    return launch(PieceSumKernel<A, A>);
  });
}

}  // namespace plait::cuda
