#include "kernels/cuda/cudnn_library.h"

#include <cudnn.h>
#include <nvrtc.h>

#include "absl/strings/str_cat.h"
#include "base/log.h"
#include "kernels/cuda/toolkit_library.h"

namespace plait::cuda {
namespace {

constexpr size_t kOldestVersion = 90600;  // grouped-query heads of packed documents

struct Library : ToolkitLibrary {
  Library() : ToolkitLibrary("cuDNN", "libcudnn.so.9") {
    if (missing().empty()) {
      const auto get_version = Find<decltype(cudnnGetVersion)>("cudnnGetVersion");
      if (get_version != nullptr) version = get_version();
      if (version < kOldestVersion) {
        Refuse(absl::StrCat("cuDNN ", version, " is older than ", kOldestVersion));
        version = 0;
      }
    }
    if (!missing().empty()) {
      LogInfo(absl::StrCat(missing(), "; attention takes plait's own kernels"));
    }
  }
  size_t version = 0;
};

const Library& TheLibrary() {
  static const Library& library = *new Library();
  return library;
}

}  // namespace

const std::string& CudnnMissing() { return TheLibrary().missing(); }
size_t CudnnVersion() { return TheLibrary().version; }

}  // namespace plait::cuda

#define PLAIT_FORWARD(name, parameters, arguments)                                      \
  cudnnStatus_t CUDNNWINAPI name parameters {                                           \
    static const auto function = plait::cuda::TheLibrary().Find<decltype(name)>(#name); \
    return function == nullptr ? CUDNN_STATUS_NOT_INITIALIZED : function arguments;     \
  }

extern "C" {

size_t CUDNNWINAPI cudnnGetVersion() { return plait::cuda::CudnnVersion(); }
const char* CUDNNWINAPI cudnnGetErrorString(cudnnStatus_t status) {
  static const auto function =
      plait::cuda::TheLibrary().Find<decltype(cudnnGetErrorString)>("cudnnGetErrorString");
  return function == nullptr ? plait::cuda::CudnnMissing().c_str() : function(status);
}
void CUDNNWINAPI cudnnGetLastErrorString(char* message, size_t max_size) {
  static const auto function =
      plait::cuda::TheLibrary().Find<decltype(cudnnGetLastErrorString)>("cudnnGetLastErrorString");
  if (function != nullptr) {
    function(message, max_size);
  } else if (max_size > 0) {
    message[0] = '\0';
  }
}

PLAIT_FORWARD(cudnnCreate, (cudnnHandle_t * handle), (handle))
PLAIT_FORWARD(cudnnDestroy, (cudnnHandle_t handle), (handle))
PLAIT_FORWARD(cudnnSetStream, (cudnnHandle_t handle, cudaStream_t stream), (handle, stream))
PLAIT_FORWARD(cudnnGetStream, (cudnnHandle_t handle, cudaStream_t* stream), (handle, stream))
PLAIT_FORWARD(cudnnBackendCreateDescriptor,
              (cudnnBackendDescriptorType_t type, cudnnBackendDescriptor_t* descriptor),
              (type, descriptor))
PLAIT_FORWARD(cudnnBackendDestroyDescriptor, (cudnnBackendDescriptor_t descriptor), (descriptor))
PLAIT_FORWARD(cudnnBackendFinalize, (cudnnBackendDescriptor_t descriptor), (descriptor))
PLAIT_FORWARD(cudnnBackendSetAttribute,
              (cudnnBackendDescriptor_t descriptor, cudnnBackendAttributeName_t name,
               cudnnBackendAttributeType_t type, int64_t count, const void* values),
              (descriptor, name, type, count, values))
PLAIT_FORWARD(cudnnBackendGetAttribute,
              (cudnnBackendDescriptor_t const descriptor, cudnnBackendAttributeName_t name,
               cudnnBackendAttributeType_t type, int64_t max_count, int64_t* count, void* values),
              (descriptor, name, type, max_count, count, values))
PLAIT_FORWARD(cudnnBackendExecute,
              (cudnnHandle_t handle, cudnnBackendDescriptor_t plan,
               cudnnBackendDescriptor_t pointers),
              (handle, plan, pointers))
#if CUDNN_VERSION >= 92300
PLAIT_FORWARD(cudnnGetExecutionPlanWorkspaceSize,
              (cudnnHandle_t handle, cudnnBackendDescriptor_t plan,
               cudnnBackendDescriptor_t pointers, size_t* bytes),
              (handle, plan, pointers, bytes))
#endif

// cudnn-frontend compiles kernels for Blackwell's RMSNorm, which plait never asks it for.
nvrtcResult nvrtcCreateProgram(nvrtcProgram*, const char*, const char*, int, const char* const*,
                               const char* const*) {
  return NVRTC_ERROR_INTERNAL_ERROR;
}
nvrtcResult nvrtcDestroyProgram(nvrtcProgram*) { return NVRTC_ERROR_INTERNAL_ERROR; }
nvrtcResult nvrtcCompileProgram(nvrtcProgram, int, const char* const*) {
  return NVRTC_ERROR_INTERNAL_ERROR;
}
nvrtcResult nvrtcGetProgramLogSize(nvrtcProgram, size_t*) { return NVRTC_ERROR_INTERNAL_ERROR; }
nvrtcResult nvrtcGetProgramLog(nvrtcProgram, char*) { return NVRTC_ERROR_INTERNAL_ERROR; }
nvrtcResult nvrtcGetCUBINSize(nvrtcProgram, size_t*) { return NVRTC_ERROR_INTERNAL_ERROR; }
nvrtcResult nvrtcGetCUBIN(nvrtcProgram, char*) { return NVRTC_ERROR_INTERNAL_ERROR; }

}  // extern "C"
