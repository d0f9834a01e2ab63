// Merge of the parts of a vocabulary. Formulas and shapes: vocabulary_merge_args.h.
#pragma once

#include <span>

#include "absl/status/status.h"
#include "kernels/implementation.h"
#include "kernels/vocabulary_merge_args.h"

namespace plait {

absl::Status VocabularyMerge(Execution& execution, const VocabularyMergeArgs& args);

std::span<const Implementation<VocabularyMergeArgs>> VocabularyMergeImplementations();

}  // namespace plait
