// cuDNN keeps log_sum_exp by token, [tokens, heads]; attention_args.h by head, [heads, tokens].
#pragma once

#include "absl/status/status.h"
#include "base/execution.h"
#include "base/view.h"

namespace plait::cuda {

// to[c, r] = from[r, c], f32.
absl::Status TransposeStatistics(Execution& execution, const ConstMatrixView& from,
                                 const MatrixView& to);

}  // namespace plait::cuda
