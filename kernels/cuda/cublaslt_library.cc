// cuBLASLt's functions, as far as kernels/cuda calls them, from the library that the machine has:
// it is loaded at the first call, so that a plait built with CUDA starts where there is none. Where
// it cannot be loaded every call answers CUBLAS_STATUS_NOT_INITIALIZED, and cublasLtGetStatusString
// says why.
#include <cublasLt.h>

#include "kernels/cuda/toolkit_library.h"

namespace plait::cuda {
namespace {

#define PLAIT_TEXT_OF(x) #x
#define PLAIT_TEXT(x) PLAIT_TEXT_OF(x)
constexpr char kFile[] = "libcublasLt.so." PLAIT_TEXT(CUBLAS_VER_MAJOR);

const ToolkitLibrary& TheLibrary() {
  static const auto& library = *new ToolkitLibrary("cuBLASLt", kFile);
  return library;
}

}  // namespace
}  // namespace plait::cuda

#define PLAIT_FORWARD(name, parameters, arguments)                                      \
  cublasStatus_t CUBLASWINAPI name parameters {                                         \
    static const auto function = plait::cuda::TheLibrary().Find<decltype(name)>(#name); \
    return function == nullptr ? CUBLAS_STATUS_NOT_INITIALIZED : function arguments;    \
  }

extern "C" {

PLAIT_FORWARD(cublasLtCreate, (cublasLtHandle_t * handle), (handle))
PLAIT_FORWARD(cublasLtDestroy, (cublasLtHandle_t handle), (handle))
PLAIT_FORWARD(cublasLtMatmul,
              (cublasLtHandle_t handle, cublasLtMatmulDesc_t product, const void* alpha,
               const void* a, cublasLtMatrixLayout_t a_layout, const void* b,
               cublasLtMatrixLayout_t b_layout, const void* beta, const void* c,
               cublasLtMatrixLayout_t c_layout, void* d, cublasLtMatrixLayout_t d_layout,
               const cublasLtMatmulAlgo_t* algorithm, void* workspace, size_t workspace_bytes,
               cudaStream_t stream),
              (handle, product, alpha, a, a_layout, b, b_layout, beta, c, c_layout, d, d_layout,
               algorithm, workspace, workspace_bytes, stream))
PLAIT_FORWARD(cublasLtMatmulDescInit_internal,
              (cublasLtMatmulDesc_t product, size_t size, cublasComputeType_t compute,
               cudaDataType_t scale),
              (product, size, compute, scale))
PLAIT_FORWARD(cublasLtMatmulDescSetAttribute,
              (cublasLtMatmulDesc_t product, cublasLtMatmulDescAttributes_t attribute,
               const void* value, size_t size),
              (product, attribute, value, size))
PLAIT_FORWARD(cublasLtMatrixLayoutInit_internal,
              (cublasLtMatrixLayout_t layout, size_t size, cudaDataType type, uint64_t rows,
               uint64_t columns, int64_t stride),
              (layout, size, type, rows, columns, stride))
PLAIT_FORWARD(cublasLtMatmulPreferenceInit_internal,
              (cublasLtMatmulPreference_t preference, size_t size), (preference, size))
PLAIT_FORWARD(cublasLtMatmulPreferenceSetAttribute,
              (cublasLtMatmulPreference_t preference,
               cublasLtMatmulPreferenceAttributes_t attribute, const void* value, size_t size),
              (preference, attribute, value, size))
PLAIT_FORWARD(cublasLtMatmulAlgoGetHeuristic,
              (cublasLtHandle_t handle, cublasLtMatmulDesc_t product,
               cublasLtMatrixLayout_t a_layout, cublasLtMatrixLayout_t b_layout,
               cublasLtMatrixLayout_t c_layout, cublasLtMatrixLayout_t d_layout,
               cublasLtMatmulPreference_t preference, int most,
               cublasLtMatmulHeuristicResult_t* results, int* count),
              (handle, product, a_layout, b_layout, c_layout, d_layout, preference, most, results,
               count))

const char* CUBLASWINAPI cublasLtGetStatusString(cublasStatus_t status) {
  using plait::cuda::TheLibrary;
  static const auto function =
      TheLibrary().Find<decltype(cublasLtGetStatusString)>("cublasLtGetStatusString");
  return function == nullptr ? TheLibrary().missing().c_str() : function(status);
}

}  // extern "C"
