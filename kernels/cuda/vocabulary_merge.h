// Merge of the parts of a vocabulary on a CUDA device: a thread a row, in f64.
#pragma once

#include "absl/status/status.h"
#include "base/execution.h"
#include "kernels/vocabulary_merge_args.h"

namespace plait::cuda {

absl::Status VocabularyMerge(Execution& execution, const VocabularyMergeArgs& args);

}  // namespace plait::cuda
