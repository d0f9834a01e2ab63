// Reference sum of pieces, with the roundings that the contract asks for.
#pragma once

#include "absl/status/status.h"
#include "base/execution.h"
#include "kernels/piece_sum_args.h"
#include "kernels/reference/element.h"

namespace plait::reference {

inline absl::Status PieceSum(Execution&, const PieceSumArgs& args) {
  const bool narrow = args.total.dtype == DType::kF32;
  for (int64_t i = 0; i < args.total.size; ++i) {
    double sum = 0;
    for (int64_t piece = 0; piece < args.pieces.rows; ++piece) {
      double value = Get(args.pieces, piece, i);
      if (args.round_to_bf16 && narrow) value = static_cast<double>(BFloat16(value));
      sum = piece == 0 ? value : sum + value;
      if (narrow) sum = static_cast<float>(sum);
    }
    Add(args.total, i, sum);
  }
  return absl::OkStatus();
}

}  // namespace plait::reference
