// Reference embedding look-up: plain loops.
#pragma once

#include "absl/status/status.h"
#include "base/execution.h"
#include "kernels/embedding_args.h"
#include "kernels/reference/element.h"

namespace plait::reference {

inline absl::Status EmbeddingForward(Execution&, const EmbeddingForwardArgs& args) {
  for (int64_t t = 0; t < args.y.rows; ++t) {
    for (int64_t d = 0; d < args.y.columns; ++d) {
      Set(args.y, t, d, args.ids[t] < 0 ? 0.0 : Get(args.table, args.ids[t], d));
    }
  }
  return absl::OkStatus();
}

inline absl::Status EmbeddingBackward(Execution&, const EmbeddingBackwardArgs& args) {
  for (int64_t t = 0; t < args.dy.rows; ++t) {
    if (args.ids[t] < 0) continue;
    for (int64_t d = 0; d < args.dy.columns; ++d) {
      Add(args.dtable, args.ids[t], d, Get(args.dy, t, d));
    }
  }
  return absl::OkStatus();
}

}  // namespace plait::reference
