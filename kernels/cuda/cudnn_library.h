// cuDNN's functions, as far as cudnn-frontend calls them, from the library that the machine has: it
// is loaded when first asked for, so that a plait built with it starts where there is none. Where
// it cannot be loaded every call answers CUDNN_STATUS_NOT_INITIALIZED. NVRTC's are there to be
// linked with alone.
#pragma once

#include <cstddef>
#include <string>

namespace plait::cuda {

// Why libcudnn.so.9 cannot be used, which is also logged once; empty if it can.
const std::string& CudnnMissing();

// 90000 and above; 0 where it is missing.
size_t CudnnVersion();

}  // namespace plait::cuda
