#include "kernels/cuda/cutlass_grouped_matmul.h"

#ifdef PLAIT_HAS_CUTLASS

#include <cutlass/cutlass.h>
#include <cutlass/gemm/device/gemm_universal_adapter.h>

#include <algorithm>
#include <cute/tensor.hpp>
#include <cutlass/epilogue/collective/collective_builder.hpp>
#include <cutlass/gemm/collective/collective_builder.hpp>
#include <cutlass/gemm/group_array_problem_shape.hpp>
#include <cutlass/gemm/kernel/gemm_universal.hpp>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "kernels/cuda/device.h"
#include "kernels/cuda/device_copies.h"
#include "kernels/cuda/expert_routing.h"
#include "kernels/cuda/runtime.h"

namespace plait::cuda {
namespace {

using Element = cutlass::bfloat16_t;
constexpr int kVector = 8;  // elements in 16 bytes

struct Tiles {
  using TileShape = cute::Shape<cute::_128, cute::_128, cute::_64>;
  using ClusterShape = cute::Shape<cute::_1, cute::_2, cute::_1>;  // shares rows of a
};
// LayoutB: of b as a [k, n] matrix.
struct Plain : Tiles {
  using LayoutB = cutlass::layout::RowMajor;
};
struct Transposed : Tiles {
  using LayoutB = cutlass::layout::ColumnMajor;
};

// Choice: Plain or Transposed. All of its types depend on it: nvcc's host code of a template that
// has types of CUTLASS which do not is no C++.
template <class Choice>
struct Grouped {
  using Problem = cute::Shape<int, int, int>;  // rows, n, k
  using TileShape = typename Choice::TileShape;
  using ClusterShape = typename Choice::ClusterShape;
  using Epilogue = typename cutlass::epilogue::collective::CollectiveBuilder<
      cutlass::arch::Sm90, cutlass::arch::OpClassTensorOp, TileShape, ClusterShape,
      cutlass::epilogue::collective::EpilogueTileAuto, float, float, Element,
      cutlass::layout::RowMajor*, kVector, Element, cutlass::layout::RowMajor*, kVector,
      cutlass::epilogue::PtrArrayTmaWarpSpecializedPingpong,
      cutlass::epilogue::fusion::LinearCombination<Element, float>>::CollectiveOp;
  using Mainloop = typename cutlass::gemm::collective::CollectiveBuilder<
      cutlass::arch::Sm90, cutlass::arch::OpClassTensorOp, Element, cutlass::layout::RowMajor*,
      kVector, Element, typename Choice::LayoutB*, kVector, float, TileShape, ClusterShape,
      cutlass::gemm::collective::StageCountAutoCarveout<static_cast<int>(
          sizeof(typename Epilogue::SharedStorage))>,
      cutlass::gemm::KernelPtrArrayTmaWarpSpecializedPingpong>::CollectiveOp;
  using Kernel = cutlass::gemm::kernel::GemmUniversal<cutlass::gemm::GroupProblemShape<Problem>,
                                                      Mainloop, Epilogue>;
  using Gemm = cutlass::gemm::device::GemmUniversalAdapter<Kernel>;
  using StrideA = typename Kernel::InternalStrideA;
  using StrideB = typename Kernel::InternalStrideB;
  using StrideC = typename Kernel::InternalStrideD;

  // What the kernel reads of each group.
  struct Groups {
    Problem* problems;
    const Element** a;
    const Element** b;
    Element** c;
    StrideA* a_strides;
    StrideB* b_strides;
    StrideC* c_strides;
  };
};

// present: [3, groups]: id, first row and rows of the groups that have any.
template <class Choice>
__global__ void DescribeKernel(const int32_t* present, int groups, GroupedMatmulArgs args,
                               typename Grouped<Choice>::Groups to) {
  const int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  if (i >= groups) return;
  const int64_t g = present[i], begin = present[groups + i];
  const int64_t weight_rows = args.b.rows / args.groups;
  to.problems[i] =
      cute::make_shape(static_cast<int>(present[2 * groups + i]), static_cast<int>(args.c.columns),
                       static_cast<int>(args.a.columns));
  to.a[i] = reinterpret_cast<const Element*>(args.a.row<BFloat16>(begin));
  to.b[i] = reinterpret_cast<const Element*>(args.b.row<BFloat16>(g * weight_rows));
  to.c[i] = reinterpret_cast<Element*>(args.c.row<BFloat16>(begin));
  cute::get<0>(to.a_strides[i]) = args.a.row_stride;
  cute::get<0>(to.c_strides[i]) = args.c.row_stride;
  if constexpr (std::is_same_v<Choice, Transposed>) {
    cute::get<0>(to.b_strides[i]) = args.b.row_stride;  // [n, k] in memory
  } else {
    cute::get<1>(to.b_strides[i]) = args.b.row_stride;
  }
}

absl::Status CutlassStatus(cutlass::Status status) {
  if (status == cutlass::Status::kSuccess) return absl::OkStatus();
  return absl::InternalError(
      absl::StrCat("grouped_matmul, CUTLASS: ", cutlass::cutlassGetStatusString(status)));
}

// The device and its multiprocessors, asked for once.
struct Hardware {
  cutlass::KernelHardwareInfo info;
};

absl::StatusOr<cutlass::KernelHardwareInfo> HardwareOf(Execution& execution) {
  auto& info = execution.Cache<Hardware>().info;
  if (info.sm_count == 0) {
    PLAIT_RETURN_IF_ERROR(ToStatus(cudaGetDevice(&info.device_id), "asking for the device"));
    PLAIT_RETURN_IF_ERROR(ToStatus(
        cudaDeviceGetAttribute(&info.sm_count, cudaDevAttrMultiProcessorCount, info.device_id),
        "asking for the device's multiprocessors"));
  }
  return info;
}

// args.row_index is absent.
template <class Choice>
absl::Status Multiply(Execution& execution, const GroupedMatmulArgs& args) {
  using Types = Grouped<Choice>;
  using Gemm = typename Types::Gemm;
  std::vector<int32_t> ids, begins, rows;
  for (int64_t g = 0; g < args.groups; ++g) {
    if (args.offsets[g] == args.offsets[g + 1]) continue;
    ids.push_back(static_cast<int32_t>(g));
    begins.push_back(args.offsets[g]);
    rows.push_back(args.offsets[g + 1] - args.offsets[g]);
  }
  const auto groups = static_cast<int>(ids.size());
  ids.insert(ids.end(), begins.begin(), begins.end());
  ids.insert(ids.end(), rows.begin(), rows.end());
  PLAIT_ASSIGN_OR_RETURN(const int32_t* present,
                         DeviceCopy(execution, ids.data(), static_cast<int64_t>(ids.size())));

  // One scratch for all arrays; each begins at a multiple of 16 bytes.
  int64_t bytes = 0;
  const auto reserve = [&](size_t element_bytes) {
    const int64_t begin = bytes;
    bytes += (static_cast<int64_t>(element_bytes) * groups + 15) / 16 * 16;
    return begin;
  };
  const int64_t problems = reserve(sizeof(typename Types::Problem)), a = reserve(sizeof(void*)),
                b = reserve(sizeof(void*)), c = reserve(sizeof(void*)),
                a_strides = reserve(sizeof(typename Types::StrideA)),
                b_strides = reserve(sizeof(typename Types::StrideB)),
                c_strides = reserve(sizeof(typename Types::StrideC));
  Tensor described = execution.Empty(DType::kI32, {bytes / 4});
  char* base = static_cast<char*>(described.raw());
  const typename Types::Groups to = {reinterpret_cast<typename Types::Problem*>(base + problems),
                                     reinterpret_cast<const Element**>(base + a),
                                     reinterpret_cast<const Element**>(base + b),
                                     reinterpret_cast<Element**>(base + c),
                                     reinterpret_cast<typename Types::StrideA*>(base + a_strides),
                                     reinterpret_cast<typename Types::StrideB*>(base + b_strides),
                                     reinterpret_cast<typename Types::StrideC*>(base + c_strides)};
  StreamHandle stream = execution.compute().handle();
  PLAIT_RETURN_IF_ERROR(
      ToStatus(LaunchKernel(DescribeKernel<Choice>, {static_cast<unsigned>((groups + 127) / 128)},
                            {128}, 0, stream, present, groups, args, to),
               "grouped_matmul, describing groups"));

  PLAIT_ASSIGN_OR_RETURN(const cutlass::KernelHardwareInfo hardware, HardwareOf(execution));
  typename Gemm::Arguments arguments;
  decltype(arguments.epilogue.thread) scaling;
  scaling.alpha = 1;
  scaling.beta = 0;  // c is not read
  arguments = {cutlass::gemm::GemmUniversalMode::kGrouped,
               {groups, to.problems, nullptr},
               {to.a, to.a_strides, to.b, to.b_strides},
               {scaling, const_cast<const Element**>(to.c), to.c_strides, to.c, to.c_strides},
               hardware};
  const auto workspace_bytes = static_cast<int64_t>(Gemm::get_workspace_size(arguments));
  Tensor workspace = execution.Empty(DType::kI32, {workspace_bytes / 4 + 1});
  Gemm gemm;
  PLAIT_RETURN_IF_ERROR(CutlassStatus(gemm.can_implement(arguments)));
  PLAIT_RETURN_IF_ERROR(CutlassStatus(
      gemm.initialize(arguments, workspace.raw(), static_cast<cudaStream_t>(stream))));
  return CutlassStatus(gemm.run(static_cast<cudaStream_t>(stream)));
}

bool IsAligned(const ConstMatrixView& view) {
  return reinterpret_cast<uintptr_t>(view.data) % 16 == 0 && view.row_stride % kVector == 0 &&
         view.columns % kVector == 0;
}

}  // namespace

std::string AcceptsCutlassGroupedMatmul(const GroupedMatmulArgs& args) {
  for (const ConstMatrixView& view : {args.a, args.b, ConstMatrixView(args.c)}) {
    if (view.dtype != DType::kBf16) return Name(view.dtype);
    if (!IsAligned(view)) return "columns, strides or addresses that are no multiple of 16 bytes";
  }
  return args.a.columns == 0 ? "an empty sum" : "";
}

absl::Status CutlassGroupedMatmul(Execution& execution, const GroupedMatmulArgs& args) {
  if (args.c.rows == 0 || args.c.columns == 0) return absl::OkStatus();
  GroupedMatmulArgs dense = args;
  Tensor gathered;
  if (args.row_index != nullptr) {
    gathered = execution.Empty(DType::kBf16, {args.c.rows, args.a.columns});
    PLAIT_RETURN_IF_ERROR(CombineRows(execution, {.rows = args.a,
                                                  .token_row = args.row_index,
                                                  .experts_per_token = 1,
                                                  .out = gathered.matrix()}));
    dense.a = gathered.matrix();
    dense.row_index = nullptr;
  }
  return args.transpose_b == Transpose::kYes ? Multiply<Transposed>(execution, dense)
                                             : Multiply<Plain>(execution, dense);
}

}  // namespace plait::cuda

#else

namespace plait::cuda {

std::string AcceptsCutlassGroupedMatmul(const GroupedMatmulArgs&) {
  return "built without CUTLASS";
}
absl::Status CutlassGroupedMatmul(Execution&, const GroupedMatmulArgs& args) {
  return absl::UnimplementedError(AcceptsCutlassGroupedMatmul(args));
}

}  // namespace plait::cuda

#endif
