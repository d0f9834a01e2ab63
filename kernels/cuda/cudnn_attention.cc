#include "kernels/cuda/cudnn_attention.h"

#ifdef PLAIT_HAS_CUDNN

#include <cudnn_frontend.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <map>
#include <memory>
#include <unordered_map>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/log.h"
#include "base/status_macros.h"
#include "kernels/cuda/attention.h"
#include "kernels/cuda/attention_statistics.h"
#include "kernels/cuda/cudnn_attention_calls.h"
#include "kernels/cuda/cudnn_library.h"
#include "kernels/cuda/device_copies.h"

namespace plait::cuda {
namespace {

namespace graph = cudnn_frontend::graph;
using TensorOf = std::shared_ptr<graph::Tensor_attributes>;

constexpr size_t kOrderedSumsVersion = 92500;  // see CudnnBackwardCalls
constexpr int kHopper = 90;

// The tensors of a graph by their ids. Those up to kDv have rows of heads; the id of their offsets
// is kOffsets more.
enum Id : int64_t { kQ = 1, kK, kV, kOut, kSums, kDout, kDq, kDk, kDv, kQueryLengths, kKeyLengths };
constexpr int64_t kOffsets = 100;
constexpr std::array kForwardIds = {kQ, kK, kV, kOut, kSums};
constexpr std::array kBackwardIds = {kQ, kK, kV, kOut, kSums, kDout, kDq, kDk, kDv};

bool IsOfKeys(Id id) { return id == kK || id == kV || id == kDk || id == kDv; }

// What a plan is made for.
struct Shape {
  bool backward = false, statistics = false, causal = false, ends_differ = false, wide = false;
  int64_t batch = 0, queries = 0, keys = 0;  // of documents, at most
  int64_t tokens = 0, key_tokens = 0;        // of all documents; 0: scratch is padded
  int64_t heads = 0, kv_heads = 0, head_dim = 0;
  float scale = 0;
  std::array<int64_t, kDv + 1> row_strides = {};  // by Id

  auto operator<=>(const Shape&) const = default;
};

struct Plan {
  std::shared_ptr<graph::Graph> graph;
  int64_t workspace_bytes = 0;
  std::string refusal;  // by cuDNN; then there is no graph
};

absl::Status ToStatus(cudnn_frontend::error_t error, const char* what) {
  if (error.is_good()) return absl::OkStatus();
  return absl::InternalError(absl::StrCat(what, ": ", error.get_message()));
}

absl::Status ToStatus(cudnnStatus_t status, const char* what) {
  if (status == CUDNN_STATUS_SUCCESS) return absl::OkStatus();
  return absl::InternalError(absl::StrCat(what, ": ", cudnnGetErrorString(status)));
}

class GraphOf {
 public:
  explicit GraphOf(const Shape& shape) : shape_(shape), graph_(std::make_shared<graph::Graph>()) {
    graph_->set_io_data_type(cudnn_frontend::DataType_t::BFLOAT16)
        .set_intermediate_data_type(cudnn_frontend::DataType_t::FLOAT)
        .set_compute_data_type(cudnn_frontend::DataType_t::FLOAT)
        .set_sm_version(kHopper);
    query_lengths_ = Lengths(kQueryLengths);
    key_lengths_ = Lengths(kKeyLengths);
  }

  std::shared_ptr<graph::Graph> Forward() {
    graph::SDPA_attributes options;
    options.set_name("attention").set_generate_stats(shape_.statistics);
    SetOptions(options);
    auto [out, sums] = graph_->sdpa(Input(kQ), Input(kK), Input(kV), options);
    SetResult(out, kOut);
    if (shape_.statistics) SetResult(sums, kSums);
    return graph_;
  }

  std::shared_ptr<graph::Graph> Backward() {
    graph::SDPA_backward_attributes options;
    options.set_name("attention_backward").set_deterministic_algorithm(true);
    if (shape_.tokens > 0) {
      options.set_max_total_seq_len_q(shape_.tokens).set_max_total_seq_len_kv(shape_.key_tokens);
    }
    SetOptions(options);
    auto [dq, dk, dv] = graph_->sdpa_backward(Input(kQ), Input(kK), Input(kV), Input(kOut),
                                              Input(kDout), Input(kSums), options);
    SetResult(dq, kDq);
    SetResult(dk, kDk);
    SetResult(dv, kDv);
    return graph_;
  }

 private:
  template <class Options>
  void SetOptions(Options& options) {
    options.set_attn_scale(shape_.scale)
        .set_padding_mask(true)
        .set_seq_len_q(query_lengths_)
        .set_seq_len_kv(key_lengths_);
    if (!shape_.causal) return;
    options
        .set_diagonal_alignment(shape_.ends_differ
                                    ? cudnn_frontend::DiagonalAlignment_t::BOTTOM_RIGHT
                                    : cudnn_frontend::DiagonalAlignment_t::TOP_LEFT)
        .set_diagonal_band_right_bound(0);
  }

  TensorOf Lengths(Id id) {
    return graph_->tensor(graph::Tensor_attributes()
                              .set_uid(id)
                              .set_name(absl::StrCat("lengths_", id))
                              .set_dim({shape_.batch, 1, 1, 1})
                              .set_stride({1, 1, 1, 1})
                              .set_data_type(cudnn_frontend::DataType_t::INT32));
  }

  TensorOf Offsets(Id id) {
    return graph_->tensor(graph::Tensor_attributes()
                              .set_uid(kOffsets + id)
                              .set_name(absl::StrCat("offsets_", id))
                              .set_dim({shape_.batch + 1, 1, 1, 1})
                              .set_stride({1, 1, 1, 1})
                              .set_data_type(shape_.wide ? cudnn_frontend::DataType_t::INT64
                                                         : cudnn_frontend::DataType_t::INT32));
  }

  // [batch, heads, rows, head_dim]; of sums [batch, heads, rows, 1], the heads of a row side by
  // side.
  void SetLayout(graph::Tensor_attributes& tensor, Id id) {
    const int64_t heads = IsOfKeys(id) ? shape_.kv_heads : shape_.heads;
    const int64_t rows = IsOfKeys(id) ? shape_.keys : shape_.queries;
    const int64_t width = id == kSums ? 1 : shape_.head_dim;
    const int64_t stride = shape_.row_strides[static_cast<size_t>(id)];
    tensor.set_uid(id)
        .set_name(absl::StrCat("rows_", id))
        .set_dim({shape_.batch, heads, rows, width})
        .set_stride({rows * stride, width, stride, 1})
        .set_data_type(id == kSums ? cudnn_frontend::DataType_t::FLOAT
                                   : cudnn_frontend::DataType_t::BFLOAT16);
    tensor.set_ragged_offset(Offsets(id));
  }

  TensorOf Input(Id id) {
    graph::Tensor_attributes tensor;
    SetLayout(tensor, id);
    return graph_->tensor(tensor);
  }

  void SetResult(const TensorOf& tensor, Id id) {
    SetLayout(*tensor, id);
    tensor->set_output(true);
  }

  const Shape& shape_;
  std::shared_ptr<graph::Graph> graph_;
  TensorOf query_lengths_, key_lengths_;
};

// The execution's handle and plans.
class Plans {
 public:
  ~Plans() {
    plans_.clear();
    if (handle_ != nullptr) cudnnDestroy(handle_);
  }

  absl::StatusOr<cudnnHandle_t> Handle(StreamHandle stream) {
    if (handle_ == nullptr) PLAIT_RETURN_IF_ERROR(ToStatus(cudnnCreate(&handle_), "cuDNN"));
    PLAIT_RETURN_IF_ERROR(
        ToStatus(cudnnSetStream(handle_, static_cast<cudaStream_t>(stream)), "cuDNN"));
    return handle_;
  }

  const Plan& For(const Shape& shape, cudnnHandle_t handle) {
    const auto found = plans_.find(shape);
    if (found != plans_.end()) return found->second;
    Plan plan;
    GraphOf builder(shape);
    plan.graph = shape.backward ? builder.Backward() : builder.Forward();
    auto error = plan.graph->build(handle, {cudnn_frontend::HeurMode_t::A});
    if (error.is_good()) error = plan.graph->get_workspace_size(plan.workspace_bytes);
    if (error.is_bad()) {
      plan.graph = nullptr;
      plan.refusal = error.get_message();
      LogWarning(absl::StrCat("cuDNN has no attention ", shape.backward ? "backward" : "forward",
                              " for ", shape.batch, " documents of up to ", shape.queries,
                              " queries and ", shape.keys, " keys, ", shape.heads, " and ",
                              shape.kv_heads, " heads of ", shape.head_dim,
                              "; plait's own kernels take it: ", plan.refusal));
    }
    return plans_.emplace(shape, std::move(plan)).first->second;
  }

 private:
  cudnnHandle_t handle_ = nullptr;
  std::map<Shape, Plan> plans_;
};

// The matrices of a call by Id; sums is [tokens, heads].
using Matrices = std::array<ConstMatrixView, kDv + 1>;

// The graph's attributes need both the headers and the library.
bool HasOrderedSums() {
  return std::min<size_t>(CudnnVersion(), CUDNN_VERSION) >= kOrderedSumsVersion;
}

// cudnn-frontend reads here, whenever it makes a plan, how many bytes scores' gradients may take;
// above it orders the sums of dq instead, where it can.
void LimitScoreBytes() {
  static const int failed = setenv("CUDNN_FRONTEND_ATTN_DP_WORKSPACE_LIMIT",
                                   absl::StrCat(kMaxCudnnScoreBytes).c_str(), /*overwrite=*/1);
  static_cast<void>(failed);
}

Shape ShapeOf(const AttentionLayout& layout, const CudnnAttentionCall& call,
              const Matrices& matrices, bool backward, bool statistics) {
  Shape shape;
  shape.backward = backward;
  shape.statistics = statistics;
  shape.causal = layout.mask == AttentionMask::kCausal;
  for (const int64_t s : call.documents) {
    shape.ends_differ =
        shape.ends_differ || layout.query_offsets[s + 1] - layout.query_offsets[s] !=
                                 layout.key_offsets[s + 1] - layout.key_offsets[s];
  }
  shape.batch = call.batch;
  shape.queries = call.queries;
  shape.keys = call.keys;
  shape.kv_heads = call.kv_heads;
  shape.heads = layout.heads / layout.kv_heads * call.kv_heads;
  shape.head_dim = layout.head_dim;
  shape.scale = static_cast<float>(layout.scale);
  for (size_t id = 0; id < matrices.size(); ++id) shape.row_strides[id] = matrices[id].row_stride;
  // Scratch for dq in f32 and for dk and dv of every query head: padded, those in bf16, or packed
  // in f32 as dq, dk and dv are, with what is between their rows.
  const int64_t tokens = layout.query_offsets[layout.documents];
  const int64_t key_tokens = layout.key_offsets[layout.documents];
  const int64_t group = shape.heads / shape.kv_heads;
  const int64_t padded =
      4 * shape.batch * (shape.queries + shape.keys) * shape.heads * shape.head_dim;
  const int64_t packed =
      4 * (tokens * shape.row_strides[kDq] +
           key_tokens * group * (shape.row_strides[kDk] + shape.row_strides[kDv]));
  if (backward && packed < padded) {
    shape.tokens = tokens;
    shape.key_tokens = key_tokens;
  }
  return shape;
}

// false: cuDNN has no plan.
template <size_t kCount>
absl::StatusOr<bool> Run(Execution& execution, const AttentionLayout& layout,
                         const std::vector<CudnnAttentionCall>& calls, const Matrices& matrices,
                         const std::array<Id, kCount>& ids, bool statistics) {
  Plans& plans = execution.Cache<Plans>();
  PLAIT_ASSIGN_OR_RETURN(cudnnHandle_t handle, plans.Handle(execution.compute().handle()));
  std::vector<CudnnRaggedRows> rows;
  for (const Id id : ids) {
    rows.push_back({IsOfKeys(id), matrices[static_cast<size_t>(id)].row_stride});
  }
  struct Prepared {
    CudnnCallWords words;
    const Plan* plan;
  };
  // All plans before the first result is written.
  std::vector<Prepared> prepared;
  for (const CudnnAttentionCall& call : calls) {
    Prepared one = {WordsOf(layout, call, rows), nullptr};
    Shape shape = ShapeOf(layout, call, matrices, kCount == kBackwardIds.size(), statistics);
    shape.wide = one.words.wide;
    one.plan = &plans.For(shape, handle);
    if (one.plan->graph == nullptr) return false;
    prepared.push_back(std::move(one));
  }
  const int64_t group = layout.heads / layout.kv_heads;
  for (size_t c = 0; c < calls.size(); ++c) {
    const auto& [words, plan] = prepared[c];
    PLAIT_ASSIGN_OR_RETURN(
        const int32_t* on_device,
        DeviceCopy(execution, words.words.data(), static_cast<int64_t>(words.words.size())));
    int32_t* const first = const_cast<int32_t*>(on_device);  // cuDNN only reads
    std::unordered_map<int64_t, void*> pointers = {{kQueryLengths, first + words.query_lengths},
                                                   {kKeyLengths, first + words.key_lengths}};
    for (size_t i = 0; i < ids.size(); ++i) {
      const Id id = ids[i];
      if (id == kSums && !statistics) continue;
      const ConstMatrixView& matrix = matrices[static_cast<size_t>(id)];
      const int64_t head = calls[c].first_kv_head * (IsOfKeys(id) ? 1 : group);
      const int64_t column = head * (id == kSums ? 1 : layout.head_dim);
      auto* data = static_cast<char*>(const_cast<void*>(matrix.data));
      pointers[id] = data + column * static_cast<int64_t>(SizeOf(matrix.dtype));
      pointers[kOffsets + id] = first + words.offsets[i];
    }
    Tensor workspace = execution.Empty(DType::kI32, {plan->workspace_bytes / 4 + 1});
    PLAIT_RETURN_IF_ERROR(
        ToStatus(plan->graph->execute(handle, pointers, workspace.raw()), "cuDNN's attention"));
  }
  return true;
}

}  // namespace

std::string AcceptsCudnnAttentionForward(const AttentionForwardArgs& args) {
  std::string reason = CudnnRefuses(args);
  return reason.empty() ? CudnnMissing() : reason;
}

absl::Status CudnnAttentionForward(Execution& execution, const AttentionForwardArgs& args) {
  const AttentionLayout& layout = args.layout;
  const bool statistics = static_cast<bool>(args.log_sum_exp);
  Tensor sums;
  Matrices matrices;
  matrices[kQ] = args.q;
  matrices[kK] = args.k;
  matrices[kV] = args.v;
  matrices[kOut] = args.out;
  if (statistics) {
    sums = execution.Empty(DType::kF32, {args.q.rows, layout.heads});
    matrices[kSums] = sums.matrix();
  }
  PLAIT_ASSIGN_OR_RETURN(const bool done, Run(execution, layout, CudnnForwardCalls(layout),
                                              matrices, kForwardIds, statistics));
  if (!done) return AttentionForward(execution, args);
  if (!statistics) return absl::OkStatus();
  return TransposeStatistics(execution, sums.matrix(), args.log_sum_exp);
}

std::string AcceptsCudnnAttentionBackward(const AttentionBackwardArgs& args) {
  std::string reason = CudnnRefuses(args, HasOrderedSums() ? 0 : kMaxCudnnScoreBytes);
  return reason.empty() ? CudnnMissing() : reason;
}

absl::Status CudnnAttentionBackward(Execution& execution, const AttentionBackwardArgs& args) {
  const AttentionLayout& layout = args.layout;
  LimitScoreBytes();
  Tensor sums = execution.Empty(DType::kF32, {args.q.rows, layout.heads});
  PLAIT_RETURN_IF_ERROR(TransposeStatistics(execution, args.log_sum_exp, sums.matrix()));
  Matrices matrices;
  matrices[kQ] = args.q;
  matrices[kK] = args.k;
  matrices[kV] = args.v;
  matrices[kOut] = args.out;
  matrices[kSums] = sums.matrix();
  matrices[kDout] = args.dout;
  matrices[kDq] = args.dq;
  matrices[kDk] = args.dk;
  matrices[kDv] = args.dv;
  PLAIT_ASSIGN_OR_RETURN(const bool done,
                         Run(execution, layout, CudnnBackwardCalls(layout, kMaxCudnnScoreBytes),
                             matrices, kBackwardIds, /*statistics=*/true));
  return done ? absl::OkStatus() : AttentionBackward(execution, args);
}

}  // namespace plait::cuda

#else

namespace plait::cuda {

std::string AcceptsCudnnAttentionForward(const AttentionForwardArgs&) {
  return "plait was built without the headers of cuDNN and cudnn-frontend";
}
absl::Status CudnnAttentionForward(Execution&, const AttentionForwardArgs& args) {
  return absl::UnimplementedError(AcceptsCudnnAttentionForward(args));
}
std::string AcceptsCudnnAttentionBackward(const AttentionBackwardArgs&) {
  return "plait was built without the headers of cuDNN and cudnn-frontend";
}
absl::Status CudnnAttentionBackward(Execution&, const AttentionBackwardArgs& args) {
  return absl::UnimplementedError(AcceptsCudnnAttentionBackward(args));
}

}  // namespace plait::cuda

#endif
