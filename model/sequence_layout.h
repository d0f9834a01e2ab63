// SequenceLayout: how documents lie in a flat microbatch, derived once from the document offsets,
// and which part of it this rank works on: of the microbatch's tokens the context axis gives it a
// segment (what mixers and the head see), and of that the tensor axis gives it some rows (what the
// residual stream holds). Both are equal, contiguous parts that may begin and end inside documents.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "base/execution.h"
#include "base/tensor.h"
#include "parallel/device_mesh.h"

namespace plait {

// Which ranks of the context and tensor axes a microbatch is divided over, and this one's place.
struct TokenPart {
  int64_t context_rank = 0;
  int64_t contexts = 1;
  int64_t tensor_rank = 0;
  int64_t tensors = 1;

  static TokenPart Of(const DeviceMesh& mesh);
};

struct SequenceLayout {
  // The segment.
  int64_t tokens = 0;
  std::vector<int32_t> document_offsets;  // [documents + 1], counted in the segment
  Tensor positions;                       // i32 [tokens], from the start of each document
  // Whether its first document began in an earlier segment, and its last goes on in the next.
  bool begins_inside = false;
  bool ends_inside = false;

  // This rank's rows of the segment.
  int64_t rows_begin = 0;
  int64_t rows = 0;
  Tensor real;  // f32 or f64 [rows]: 1, or 0 for padding
  int64_t real_rows = 0;

  // The whole microbatch.
  int64_t segment_begin = 0;                         // of this rank's segment
  std::vector<int32_t> microbatch_document_offsets;  // [its documents + 1]
  int64_t real_tokens = 0;                           // of it

  int64_t documents() const { return static_cast<int64_t>(document_offsets.size()) - 1; }

  // token_ids: i32 [tokens], negative for padding. document_offsets: i32 [documents + 1].
  // Both of the whole microbatch. InvalidArgument unless the offsets rise from 0 to tokens, and
  // unless the tokens divide by the ranks they are dealt to.
  static absl::StatusOr<SequenceLayout> Create(const Tensor& token_ids,
                                               const Tensor& document_offsets,
                                               DType statistics_dtype, const TokenPart& part = {});
  // One document of real tokens whose first position is `first_position`: a step of cached
  // generation.
  static SequenceLayout Continuation(int64_t tokens, int64_t first_position,
                                     DType statistics_dtype);

  // Brings positions and `real` to the execution's device, where kernels read them.
  absl::Status MoveTo(Execution& execution);
};

}  // namespace plait
