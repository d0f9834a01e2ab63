// Numbers moved by an index, one by one: quick enough on the CPU, too.
#pragma once

#include "absl/status/status.h"
#include "base/execution.h"
#include "kernels/indexed_numbers_args.h"
#include "kernels/reference/element.h"

namespace plait::reference {

inline absl::Status GatherNumbers(Execution&, const GatherNumbersArgs& args) {
  for (int64_t i = 0; i < args.out.size; ++i) Set(args.out, i, Get(args.values, args.index[i]));
  return absl::OkStatus();
}

inline absl::Status ScatterNumbers(Execution&, const ScatterNumbersArgs& args) {
  for (int64_t i = 0; i < args.values.size; ++i) Set(args.out, args.index[i], Get(args.values, i));
  return absl::OkStatus();
}

}  // namespace plait::reference
