// Exit codes of the executable, and the one place that maps a Status to one. Where the code of a
// Status says too little (a damaged checkpoint is not a damaged token shard), whoever knows marks
// the Status with WithExitCode; Annotate keeps the mark.
#pragma once

#include "absl/status/status.h"

namespace plait {

enum class ExitCode {
  kDone = 0,
  kBadInput = 2,       // recipe, data or command line
  kBadCheckpoint = 3,  // damaged, incomplete or of another model
  kNumericFault = 17,  // a loss or gradient that is not finite
  kInternal = 70,      // a bug of ours
  kTryAgain = 75,      // stopped on request, disk or memory full, lost peer
};

// The same error, marked. Ok stays Ok.
absl::Status WithExitCode(absl::Status status, ExitCode code);

// The mark where there is one, else by code:
//   InvalidArgument, NotFound, AlreadyExists, FailedPrecondition, OutOfRange, PermissionDenied,
//   Unimplemented (a recipe asks for what is not built), DataLoss (a damaged input file): 2
//   ResourceExhausted, Unavailable, Aborted, Cancelled, DeadlineExceeded: 75
//   all others: 70
ExitCode ExitCodeOf(const absl::Status& status);

}  // namespace plait
