// A failure of one rank, told to all of them at a point that every rank reaches, so that all end
// together with the same message instead of waiting for the one that left.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "parallel/communicator.h"

namespace plait {

// Collective. Ok where `own` is Ok on every rank; else, on every rank, the failure of the lowest
// rank that has one, "rank 3: ..." (without the rank where all fail alike), with its exit code, and
// marked as agreed.
absl::Status AgreeOnStatus(Communicator& world, const absl::Status& own);

// Whether every rank holds this same failure: the job need not be aborted.
bool IsAgreed(const absl::Status& status);

// Collective. FailedPrecondition on every rank, naming the ranks, where the texts differ; `what` is
// put before ("the recipe").
absl::Status CheckSameText(Communicator& world, const std::string& what, const std::string& text);

}  // namespace plait
