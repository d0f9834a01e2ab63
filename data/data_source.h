// DataSource: what a row of a step holds, as a pure function. Nothing is consumed, so there is
// nothing to save or seek.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"

namespace plait {

// One row before packing: documents, or pieces of them, one after the other.
struct Row {
  std::vector<int32_t> tokens;
  std::vector<int32_t> targets;  // the next token of the same document; 0 where the weight is 0
  std::vector<float> weights;    // of predicting targets[t]
  std::vector<int64_t> document_starts;  // ascending, the first is 0
};

// What the rows of a stage have in common. Sample order starts anew in every stage.
struct StageRows {
  int64_t stage = 0;  // its number in the recipe
  int64_t row_tokens = 0;
  int64_t rows_per_step = 0;  // of all ranks together
};

class DataSource {
 public:
  virtual ~DataSource() = default;

  // Row `row` of step `step` of the stage (both from 0), at most row_tokens tokens; overwrites
  // `out`. Thread-safe.
  virtual absl::Status ReadRow(const StageRows& stage, int64_t step, int64_t row,
                               Row* out) const = 0;

  virtual int64_t vocabulary_size() const = 0;
  virtual const std::string& tokenizer_digest() const = 0;
  // Equal for equal data. A run resumes only on the data it began with.
  virtual std::string fingerprint() const = 0;
};

}  // namespace plait
