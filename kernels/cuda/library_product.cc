#include "kernels/cuda/library_product.h"

#include <cublasLt.h>

#include <algorithm>
#include <array>
#include <map>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/status_macros.h"

namespace plait::cuda {
namespace {

// Rows of experts differ from step to step: the choices kept are forgotten when so many.
constexpr size_t kMaxChoices = 4096;

absl::Status ToStatus(cublasStatus_t status, const char* what) {
  if (status == CUBLAS_STATUS_SUCCESS) return absl::OkStatus();
  return absl::InternalError(
      absl::StrCat("matmul: cuBLASLt, ", what, ": ", cublasLtGetStatusString(status)));
}

cudaDataType_t DataType(DType dtype) {
  return dtype == DType::kBf16 ? CUDA_R_16BF : dtype == DType::kF64 ? CUDA_R_64F : CUDA_R_32F;
}

// One call's descriptors and algorithm. cuBLASLt's matrices are column-major: a row-major matrix
// is the column-major one of its transpose, so that c^T = op(b)^T op(a)^T is asked for.
struct Choice {
  cublasLtMatmulDescOpaque_t product;
  cublasLtMatrixLayoutOpaque_t a, b, c;
  cublasLtMatmulAlgo_t algorithm;
};

// Shapes, strides, dtypes, alignments, transposes, accumulation: all that a choice depends on.
using Key = std::array<int64_t, 14>;

class CublasLt {
 public:
  CublasLt() = default;
  ~CublasLt() {
    if (handle_ != nullptr) cublasLtDestroy(handle_);
  }
  CublasLt(const CublasLt&) = delete;
  CublasLt& operator=(const CublasLt&) = delete;

  absl::Status Multiply(Execution& execution, const MatmulArgs& args) {
    if (handle_ == nullptr) {
      PLAIT_RETURN_IF_ERROR(ToStatus(cublasLtCreate(&handle_), "starting"));
      workspace_ = execution.Empty(DType::kBf16, {kLibraryWorkspaceBytes / 2});
    }
    const Key key = KeyOf(args);
    auto found = choices_.find(key);
    if (found == choices_.end()) {
      if (choices_.size() >= kMaxChoices) choices_.clear();
      Choice choice;
      PLAIT_RETURN_IF_ERROR(Choose(args, choice));
      found = choices_.emplace(key, choice).first;
    }
    Choice& choice = found->second;
    const bool wide = args.c.dtype == DType::kF64;
    const double beta = args.accumulate == Accumulate::kYes ? 1 : 0, alpha = 1;
    const float beta_f32 = static_cast<float>(beta), alpha_f32 = 1;
    return ToStatus(
        cublasLtMatmul(handle_, &choice.product,
                       wide ? static_cast<const void*>(&alpha) : &alpha_f32, args.b.data, &choice.b,
                       args.a.data, &choice.a, wide ? static_cast<const void*>(&beta) : &beta_f32,
                       args.c.data, &choice.c, args.c.data, &choice.c, &choice.algorithm,
                       workspace_.raw(), kLibraryWorkspaceBytes,
                       static_cast<cudaStream_t>(execution.compute().handle())),
        "multiplying");
  }

 private:
  // Of the first element: a power of two up to 256.
  static uint32_t Alignment(const ConstMatrixView& view) {
    const auto address = reinterpret_cast<uintptr_t>(view.data);
    return static_cast<uint32_t>(std::min<uintptr_t>(address & (~address + 1), 256));
  }

  static Key KeyOf(const MatmulArgs& args) {
    return {args.a.rows,
            args.a.columns,
            args.a.row_stride,
            args.b.row_stride,
            args.c.rows,
            args.c.columns,
            args.c.row_stride,
            static_cast<int64_t>(args.a.dtype),
            static_cast<int64_t>(args.c.dtype),
            Alignment(args.a),
            Alignment(args.b),
            Alignment(args.c),
            (args.transpose_a == Transpose::kYes ? 2 : 0) +
                (args.transpose_b == Transpose::kYes ? 1 : 0),
            args.accumulate == Accumulate::kYes ? 1 : 0};
  }

  static absl::Status InitLayout(const ConstMatrixView& view,
                                 cublasLtMatrixLayoutOpaque_t& layout) {
    return ToStatus(cublasLtMatrixLayoutInit(
                        &layout, DataType(view.dtype), static_cast<uint64_t>(view.columns),
                        static_cast<uint64_t>(view.rows), std::max(view.row_stride, view.columns)),
                    "describing a matrix");
  }

  static absl::Status SetTranspose(cublasLtMatmulDescOpaque_t& product,
                                   cublasLtMatmulDescAttributes_t attribute, Transpose transpose) {
    const cublasOperation_t operation = transpose == Transpose::kYes ? CUBLAS_OP_T : CUBLAS_OP_N;
    return ToStatus(
        cublasLtMatmulDescSetAttribute(&product, attribute, &operation, sizeof(operation)),
        "describing a product");
  }

  absl::Status Choose(const MatmulArgs& args, Choice& choice) {
    const bool wide = args.c.dtype == DType::kF64;
    PLAIT_RETURN_IF_ERROR(ToStatus(
        cublasLtMatmulDescInit(&choice.product, wide ? CUBLAS_COMPUTE_64F : CUBLAS_COMPUTE_32F,
                               wide ? CUDA_R_64F : CUDA_R_32F),
        "describing a product"));
    PLAIT_RETURN_IF_ERROR(
        SetTranspose(choice.product, CUBLASLT_MATMUL_DESC_TRANSA, args.transpose_b));
    PLAIT_RETURN_IF_ERROR(
        SetTranspose(choice.product, CUBLASLT_MATMUL_DESC_TRANSB, args.transpose_a));
    PLAIT_RETURN_IF_ERROR(InitLayout(args.a, choice.a));
    PLAIT_RETURN_IF_ERROR(InitLayout(args.b, choice.b));
    PLAIT_RETURN_IF_ERROR(InitLayout(args.c, choice.c));

    cublasLtMatmulPreferenceOpaque_t preference;
    PLAIT_RETURN_IF_ERROR(ToStatus(cublasLtMatmulPreferenceInit(&preference), "preferences"));
    const auto prefer = [&](cublasLtMatmulPreferenceAttributes_t attribute, const auto& value) {
      return ToStatus(
          cublasLtMatmulPreferenceSetAttribute(&preference, attribute, &value, sizeof(value)),
          "preferences");
    };
    PLAIT_RETURN_IF_ERROR(prefer(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
                                 static_cast<uint64_t>(kLibraryWorkspaceBytes)));
    // Neither partial sums rounded to the output nor parts added to it one by one.
    PLAIT_RETURN_IF_ERROR(prefer(CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK,
                                 static_cast<uint32_t>(CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE)));
    PLAIT_RETURN_IF_ERROR(prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, Alignment(args.b)));
    PLAIT_RETURN_IF_ERROR(prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, Alignment(args.a)));
    PLAIT_RETURN_IF_ERROR(prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, Alignment(args.c)));
    PLAIT_RETURN_IF_ERROR(prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, Alignment(args.c)));

    cublasLtMatmulHeuristicResult_t result = {};
    int count = 0;
    const cublasStatus_t status =
        cublasLtMatmulAlgoGetHeuristic(handle_, &choice.product, &choice.b, &choice.a, &choice.c,
                                       &choice.c, &preference, 1, &result, &count);
    if (status == CUBLAS_STATUS_NOT_SUPPORTED || (status == CUBLAS_STATUS_SUCCESS && count == 0)) {
      return absl::UnimplementedError(
          absl::StrCat("matmul: cuBLASLt has no algorithm for ", Name(args.a.dtype), " to ",
                       Name(args.c.dtype), ", [", args.a.rows, ", ", args.a.columns, "] by [",
                       args.b.rows, ", ", args.b.columns, "], row strides ", args.a.row_stride,
                       ", ", args.b.row_stride, " and ", args.c.row_stride));
    }
    PLAIT_RETURN_IF_ERROR(ToStatus(status, "choosing an algorithm"));
    choice.algorithm = result.algo;
    return absl::OkStatus();
  }

  cublasLtHandle_t handle_ = nullptr;
  Tensor workspace_;
  std::map<Key, Choice> choices_;
};

}  // namespace

absl::Status LibraryProduct(Execution& execution, const MatmulArgs& args) {
  PLAIT_CHECK(args.a.dtype == args.b.dtype && HasLibraryProduct(args.a.dtype, args.c.dtype) &&
              !args.bias);
  return execution.Cache<CublasLt>().Multiply(execution, args);
}

}  // namespace plait::cuda
