// Which calls of cuDNN one attention is made of, and which shapes their plans are for: decided on
// the host, without cuDNN. Making a plan takes a good part of a second: shapes are rounded up to
// powers of two, so that steps with other documents find the plans of earlier ones.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "kernels/attention_args.h"

namespace plait::cuda {

struct CudnnAttentionCall {
  std::vector<int64_t> documents;  // rising; all have queries
  int64_t first_kv_head = 0, kv_heads = 0;
  // Of the plan, at least: documents, and queries and keys of one.
  int64_t batch = 0, queries = 0, keys = 0;
};

// One call for all documents; none where there are no queries.
std::vector<CudnnAttentionCall> CudnnForwardCalls(const AttentionLayout& layout);

// cuDNN's backward with repeatable sums writes the gradients of all scores to memory: as few calls
// as keep those within `max_score_bytes`, documents of similar length and a divisor of the key
// heads in each. Documents too long for that, with one key head alone, are in calls with all heads:
// they need the backward of cuDNN 9.25, which adds to dq in order.
std::vector<CudnnAttentionCall> CudnnBackwardCalls(const AttentionLayout& layout,
                                                   int64_t max_score_bytes);

// For the gradients of scores of one call of the backward, at most.
inline constexpr int64_t kMaxCudnnScoreBytes = int64_t{4} << 30;

// Bytes of the gradients of all scores of a call.
int64_t CudnnScoreBytes(const AttentionLayout& layout, const CudnnAttentionCall& call);

// Bytes that cudnn-frontend's graph of a call of the backward asks for: the gradients of scores, a
// sum for each query and head, and where heads share keys, dk and dv of every head. cuDNN's own
// engine may add to it.
int64_t CudnnBackwardBytes(const AttentionLayout& layout, const CudnnAttentionCall& call);

// A call's lengths and offsets, as 4-byte words for the device.
struct CudnnCallWords {
  std::vector<int32_t> words;
  bool wide = false;             // offsets are of 8 bytes
  std::vector<int64_t> offsets;  // of each tensor, the word where its [batch + 1] offsets begin
  int64_t query_lengths = 0, key_lengths = 0;  // the words where [batch] lengths begin
};

// A tensor of a call: rows of queries or of keys, with elements between rows.
struct CudnnRaggedRows {
  bool of_keys = false;
  int64_t row_stride = 0;
};

CudnnCallWords WordsOf(const AttentionLayout& layout, const CudnnAttentionCall& call,
                       const std::vector<CudnnRaggedRows>& tensors);

// Why cuDNN's attention on Hopper cannot take it; empty if it can.
std::string CudnnRefuses(const AttentionForwardArgs& args);
// max_score_bytes: as above, where sums of dq cannot be ordered (before cuDNN 9.25), else 0.
std::string CudnnRefuses(const AttentionBackwardArgs& args, int64_t max_score_bytes);

}  // namespace plait::cuda
