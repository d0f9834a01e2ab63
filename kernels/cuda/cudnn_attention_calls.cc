#include "kernels/cuda/cudnn_attention_calls.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <initializer_list>
#include <limits>
#include <map>

#include "absl/strings/str_cat.h"

namespace plait::cuda {
namespace {

constexpr int64_t kMinRows = 128;  // a tile: shorter shapes would be other plans for the same work

int64_t PowerOfTwo(int64_t count) {
  return static_cast<int64_t>(std::bit_ceil(static_cast<uint64_t>(count)));
}

int64_t Queries(const AttentionLayout& layout, int64_t s) {
  return layout.query_offsets[s + 1] - layout.query_offsets[s];
}
int64_t Keys(const AttentionLayout& layout, int64_t s) {
  return layout.key_offsets[s + 1] - layout.key_offsets[s];
}

CudnnAttentionCall MakeCall(const AttentionLayout& layout, std::vector<int64_t> documents,
                            int64_t first_kv_head, int64_t kv_heads) {
  CudnnAttentionCall call;
  call.documents = std::move(documents);
  call.first_kv_head = first_kv_head;
  call.kv_heads = kv_heads;
  call.batch = PowerOfTwo(static_cast<int64_t>(call.documents.size()));
  call.queries = call.keys = kMinRows;
  for (const int64_t s : call.documents) {
    call.queries = std::max(call.queries, PowerOfTwo(Queries(layout, s)));
    call.keys = std::max(call.keys, PowerOfTwo(Keys(layout, s)));
  }
  return call;
}

// Of the gradients of scores, for one document and one key head.
int64_t HeadScoreBytes(const AttentionLayout& layout, int64_t queries, int64_t keys) {
  return layout.heads / layout.kv_heads * queries * keys * 2;
}

bool IsAligned(const ConstMatrixView& view) {
  return reinterpret_cast<uintptr_t>(view.data) % 16 == 0 && view.row_stride % 8 == 0;
}

std::string Refuses(const AttentionLayout& layout, std::initializer_list<ConstMatrixView> inputs,
                    std::initializer_list<MatrixView> results) {
  for (const ConstMatrixView& view : inputs) {
    if (view.dtype != DType::kBf16) return "dtypes other than bf16";
    if (!IsAligned(view)) return "rows that do not begin at multiples of 16 bytes";
  }
  for (const MatrixView& view : results) {
    if (view.dtype != DType::kBf16) return "results that are not rounded to bf16";
    if (!IsAligned(view)) return "rows that do not begin at multiples of 16 bytes";
  }
  if (layout.head_dim % 8 != 0) return "head_dim that is no multiple of 8";
  if (layout.head_dim > 256) return "heads of more than 256 elements";
  for (int64_t s = 0; s < layout.documents; ++s) {
    if (Queries(layout, s) > 0 && Keys(layout, s) == 0) return "documents with queries but no keys";
  }
  return "";
}

}  // namespace

int64_t CudnnScoreBytes(const AttentionLayout& layout, const CudnnAttentionCall& call) {
  return call.batch * call.kv_heads * HeadScoreBytes(layout, call.queries, call.keys);
}

int64_t CudnnBackwardBytes(const AttentionLayout& layout, const CudnnAttentionCall& call) {
  const int64_t group = layout.heads / layout.kv_heads, heads = group * call.kv_heads;
  const int64_t sums = 4 * call.batch * heads * call.queries;
  // Padded in bf16, or packed in f32 with what is between the rows of dk and dv.
  const int64_t padded = 2 * 2 * call.batch * call.keys * heads * layout.head_dim;
  const int64_t packed =
      2 * 4 * layout.key_offsets[layout.documents] * layout.heads * layout.head_dim;
  return CudnnScoreBytes(layout, call) + sums + (group > 1 ? std::min(padded, packed) : 0);
}

std::vector<CudnnAttentionCall> CudnnForwardCalls(const AttentionLayout& layout) {
  std::vector<int64_t> documents;
  for (int64_t s = 0; s < layout.documents; ++s) {
    if (Queries(layout, s) > 0) documents.push_back(s);
  }
  if (documents.empty()) return {};
  return {MakeCall(layout, std::move(documents), 0, layout.kv_heads)};
}

std::vector<CudnnAttentionCall> CudnnBackwardCalls(const AttentionLayout& layout,
                                                   int64_t max_score_bytes) {
  std::vector<CudnnAttentionCall> calls = CudnnForwardCalls(layout);
  if (calls.empty() || CudnnScoreBytes(layout, calls[0]) <= max_score_bytes) return calls;
  std::map<std::pair<int64_t, int64_t>, std::vector<int64_t>> similar;
  for (const int64_t s : calls[0].documents) {
    const CudnnAttentionCall alone = MakeCall(layout, {s}, 0, 1);
    similar[{alone.queries, alone.keys}].push_back(s);
  }
  calls.clear();
  for (const auto& [rows, documents] : similar) {
    const int64_t each = HeadScoreBytes(layout, rows.first, rows.second);
    const int64_t capacity = max_score_bytes / each;  // documents x key heads
    if (capacity == 0) {
      calls.push_back(MakeCall(layout, documents, 0, layout.kv_heads));
      continue;
    }
    int64_t kv_heads = std::min(layout.kv_heads, capacity);
    while (layout.kv_heads % kv_heads != 0) --kv_heads;
    const auto batch =
        static_cast<size_t>(std::bit_floor(static_cast<uint64_t>(capacity / kv_heads)));
    for (size_t first = 0; first < documents.size(); first += batch) {
      const auto begin = documents.begin() + static_cast<ptrdiff_t>(first);
      const auto end =
          documents.begin() + static_cast<ptrdiff_t>(std::min(first + batch, documents.size()));
      for (int64_t head = 0; head < layout.kv_heads; head += kv_heads) {
        calls.push_back(MakeCall(layout, {begin, end}, head, kv_heads));
      }
    }
  }
  return calls;
}

CudnnCallWords WordsOf(const AttentionLayout& layout, const CudnnAttentionCall& call,
                       const std::vector<CudnnRaggedRows>& tensors) {
  CudnnCallWords result;
  for (const CudnnRaggedRows& tensor : tensors) {
    const int32_t* rows = tensor.of_keys ? layout.key_offsets : layout.query_offsets;
    result.wide = result.wide ||
                  rows[layout.documents] * tensor.row_stride > std::numeric_limits<int32_t>::max();
  }
  for (const CudnnRaggedRows& tensor : tensors) {
    const int32_t* rows = tensor.of_keys ? layout.key_offsets : layout.query_offsets;
    result.offsets.push_back(static_cast<int64_t>(result.words.size()));
    for (int64_t i = 0; i <= call.batch; ++i) {
      const bool inside = i < static_cast<int64_t>(call.documents.size());
      const int64_t row =
          inside ? rows[call.documents[static_cast<size_t>(i)]] : rows[call.documents.back() + 1];
      const int64_t offset = row * tensor.row_stride;
      int32_t words[2];
      std::memcpy(words, &offset, sizeof(offset));  // little-endian
      result.words.insert(result.words.end(), words, words + (result.wide ? 2 : 1));
    }
  }
  const auto append_lengths = [&](auto length) {
    const auto begin = static_cast<int64_t>(result.words.size());
    for (const int64_t s : call.documents) {
      result.words.push_back(static_cast<int32_t>(length(layout, s)));
    }
    result.words.resize(static_cast<size_t>(begin + call.batch), 0);
    return begin;
  };
  result.query_lengths = append_lengths(Queries);
  result.key_lengths = append_lengths(Keys);
  return result;
}

std::string CudnnRefuses(const AttentionForwardArgs& args) {
  return Refuses(args.layout, {args.q, args.k, args.v}, {args.out});
}

std::string CudnnRefuses(const AttentionBackwardArgs& args, int64_t max_score_bytes) {
  const AttentionLayout& layout = args.layout;
  std::string reason =
      Refuses(layout, {args.q, args.k, args.v, args.out, args.dout}, {args.dq, args.dk, args.dv});
  if (!reason.empty()) return reason;
  for (int64_t s = 0; s < layout.documents; ++s) {
    if (Queries(layout, s) == 0 && Keys(layout, s) > 0) return "documents with keys but no queries";
  }
  if (max_score_bytes == 0) return "";
  for (const CudnnAttentionCall& call : CudnnBackwardCalls(layout, max_score_bytes)) {
    const int64_t bytes = CudnnScoreBytes(layout, call);
    if (bytes > max_score_bytes) {
      return absl::StrCat(call.queries, " queries and ", call.keys, " keys would take ", bytes,
                          " bytes for the gradients of scores, more than ", max_score_bytes,
                          "; cuDNN 9.25 or newer takes none");
    }
  }
  return "";
}

}  // namespace plait::cuda
