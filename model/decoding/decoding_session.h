// DecodingSession: cached generation of one sequence. Keys and values are kept per attention block,
// the last inputs of the convolution and the scan's state per Mamba block, so that each new token
// costs one pass over one token.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/execution.h"
#include "model/language_model.h"
#include "parallel/parameter_sharder.h"

namespace plait {

class DecodingSession {
 public:
  // capacity: most tokens, prompt included. model and sharder outlive the session.
  DecodingSession(Execution& execution, LanguageModel& model, ParameterSharder& sharder,
                  int64_t capacity);

  // Appends tokens (a prompt, in any pieces, or one sampled token) and returns the logits after the
  // last of them, f32 or f64 [vocabulary]. InvalidArgument for no tokens or ids past the
  // vocabulary; OutOfRange past the capacity.
  absl::StatusOr<Tensor> Append(std::span<const int32_t> tokens);

  int64_t length() const { return length_; }

 private:
  Execution& execution_;
  LanguageModel& model_;
  ParameterSharder& sharder_;
  int64_t capacity_;
  int64_t length_ = 0;
  std::vector<BlockCache> caches_;
};

}  // namespace plait
