#include "kernels/cuda/cutlass_grouped_matmul.h"

namespace plait::cuda {

std::string AcceptsCutlassGroupedMatmul(const GroupedMatmulArgs&) { return "is not emulated"; }
absl::Status CutlassGroupedMatmul(Execution&, const GroupedMatmulArgs& args) {
  return absl::UnimplementedError(AcceptsCutlassGroupedMatmul(args));
}

}  // namespace plait::cuda
