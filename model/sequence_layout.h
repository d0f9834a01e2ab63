// SequenceLayout: how documents lie in a flat microbatch, derived once from the document offsets.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "base/tensor.h"

namespace plait {

struct SequenceLayout {
  int64_t tokens = 0;
  std::vector<int32_t> document_offsets;  // [documents + 1]
  std::vector<int32_t> positions;         // [tokens], from the start of each document
  Tensor real;                            // f32 or f64 [tokens]: 1, or 0 for padding
  int64_t real_tokens = 0;

  int64_t documents() const { return static_cast<int64_t>(document_offsets.size()) - 1; }

  // token_ids: i32 [tokens], negative for padding. document_offsets: i32 [documents + 1].
  // InvalidArgument unless the offsets rise from 0 to tokens.
  static absl::StatusOr<SequenceLayout> Create(const Tensor& token_ids,
                                               const Tensor& document_offsets,
                                               DType statistics_dtype);
  // One document of real tokens whose first position is `first_position`: a step of cached
  // generation.
  static SequenceLayout Continuation(int64_t tokens, int64_t first_position,
                                     DType statistics_dtype);
};

}  // namespace plait
