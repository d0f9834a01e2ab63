// cuBLASLt's functions, as far as kernels/cuda calls them, from the library that the machine has:
// it is loaded at the first call, so that a plait built with CUDA starts where there is none. Where
// it cannot be loaded every call answers CUBLAS_STATUS_NOT_INITIALIZED, and cublasLtGetStatusString
// says why.
#include <cublasLt.h>
#include <dlfcn.h>

#include <string>

namespace plait::cuda {
namespace {

#define PLAIT_TEXT_OF(x) #x
#define PLAIT_TEXT(x) PLAIT_TEXT_OF(x)
constexpr char kName[] = "libcublasLt.so." PLAIT_TEXT(CUBLAS_VER_MAJOR);

struct Library {
  Library() {
    // Where the linker looks (LD_LIBRARY_PATH above all), then in the toolkit's usual place.
    handle = dlopen(kName, RTLD_NOW | RTLD_LOCAL);
    if (handle != nullptr) return;
    error = std::string("cuBLASLt is not there: ") + dlerror() +
            "; set LD_LIBRARY_PATH to the folder that has it";
    handle = dlopen((std::string("/usr/local/cuda/lib64/") + kName).c_str(), RTLD_NOW | RTLD_LOCAL);
  }
  void* handle = nullptr;
  std::string error;
};

const Library& TheLibrary() {
  static const Library& library = *new Library();
  return library;
}

template <class Function>
Function* Find(const char* name) {
  const Library& library = TheLibrary();
  return library.handle == nullptr ? nullptr
                                   : reinterpret_cast<Function*>(dlsym(library.handle, name));
}

}  // namespace
}  // namespace plait::cuda

#define PLAIT_FORWARD(name, parameters, arguments)                                   \
  cublasStatus_t CUBLASWINAPI name parameters {                                      \
    static const auto function = plait::cuda::Find<decltype(name)>(#name);           \
    return function == nullptr ? CUBLAS_STATUS_NOT_INITIALIZED : function arguments; \
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
  if (TheLibrary().handle == nullptr) return TheLibrary().error.c_str();
  static const auto function =
      plait::cuda::Find<decltype(cublasLtGetStatusString)>("cublasLtGetStatusString");
  return function == nullptr ? "" : function(status);
}

}  // extern "C"
