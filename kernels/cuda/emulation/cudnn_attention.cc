#include "kernels/cuda/cudnn_attention.h"

namespace plait::cuda {

std::string AcceptsCudnnAttentionForward(const AttentionForwardArgs&) { return "is not emulated"; }
absl::Status CudnnAttentionForward(Execution&, const AttentionForwardArgs& args) {
  return absl::UnimplementedError(AcceptsCudnnAttentionForward(args));
}
std::string AcceptsCudnnAttentionBackward(const AttentionBackwardArgs&) {
  return "is not emulated";
}
absl::Status CudnnAttentionBackward(Execution&, const AttentionBackwardArgs& args) {
  return absl::UnimplementedError(AcceptsCudnnAttentionBackward(args));
}

}  // namespace plait::cuda
