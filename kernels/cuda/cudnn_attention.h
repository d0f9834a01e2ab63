// Attention of bf16 documents on Hopper by cuDNN's fused kernels (scaled dot product attention of
// cudnn-frontend's graphs): packed documents by offsets, grouped-query heads, causal with aligned
// ends or without a mask. The backward takes cuDNN's deterministic algorithm: bits repeat.
// Plans are made when a shape is first met (cudnn_attention_calls.h) and kept by the execution. A
// shape that cuDNN turns down goes to plait's own kernels (attention.h), with a warning.
// It refuses, with the reason, where plait was built without cuDNN's headers, where libcudnn.so.9
// cannot be loaded, and where the device is emulated.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "base/execution.h"
#include "kernels/attention_args.h"

namespace plait::cuda {

std::string AcceptsCudnnAttentionForward(const AttentionForwardArgs& args);
absl::Status CudnnAttentionForward(Execution& execution, const AttentionForwardArgs& args);
std::string AcceptsCudnnAttentionBackward(const AttentionBackwardArgs& args);
absl::Status CudnnAttentionBackward(Execution& execution, const AttentionBackwardArgs& args);

}  // namespace plait::cuda
