// Held-out loss and bits per byte over fixed rows of the held-out split:
//   loss          = sum weight x -log p(target) / sum of weights, in nats
//   bits per byte = sum weight x -log2 p(target) / bytes of text; exact, since every token's bytes
//                   are known and EOS has none
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "base/execution.h"
#include "data/heldout_reader.h"
#include "trainer/model_runtime.h"

namespace plait {

struct EvaluationResult {
  double loss = 0;
  double bits_per_byte = 0;
  double weight_sum = 0;
  int64_t tokens = 0;
  int64_t text_bytes = 0;
  bool is_whole = true;  // false: of the rows before a caller ended it
};

struct EvaluationOptions {
  std::string folder;  // written by `plait prepare`
  int64_t row_tokens = 0;
  int64_t rows_per_batch = 1;
  int64_t max_tokens = 0;  // 0: all
};

class Evaluation {
 public:
  // nullptr where the folder holds nothing out. Else errors of HeldoutReader::Open.
  static absl::StatusOr<std::unique_ptr<Evaluation>> Create(const EvaluationOptions& options);

  // Asked every few batches, on all ranks alike, with the share that is done, between 0 and 1.
  // False ends the evaluation; the answer is the same on all ranks.
  using GoOn = std::function<absl::StatusOr<bool>(double done)>;

  // Collective: the batches are dealt to the data-parallel ranks. Changes no parameter and no
  // gradient. The result is the same for any number of ranks.
  absl::StatusOr<EvaluationResult> Run(Execution& execution, ModelRuntime& runtime,
                                       const GoOn& go_on) const;

 private:
  Evaluation(HeldoutReader reader, const EvaluationOptions& options)
      : reader_(std::move(reader)),
        row_tokens_(options.row_tokens),
        rows_per_batch_(options.rows_per_batch) {}

  HeldoutReader reader_;
  int64_t row_tokens_;
  int64_t rows_per_batch_;
};

}  // namespace plait
