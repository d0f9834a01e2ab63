// Deals a corpus to ranks: contiguous ranges of its files laid one after the other, equal in bytes.
#pragma once

#include <cstdint>

#include "absl/status/status.h"
#include "data/corpus_reader.h"
#include "data/prepare_ranks.h"

namespace plait {

// Where part `index` of `parts` equal ones of `total` begins.
int64_t PartBegin(int64_t total, int64_t index, int64_t parts);

// Collective: gives this rank's range to `corpus`, which lists the same files on every rank
// (FailedPrecondition otherwise). Lines have the number that they have in their file: each rank
// counts the newlines of its part of a file that the next rank goes on with.
absl::Status DealCorpus(PrepareRanks& ranks, CorpusReader& corpus);

}  // namespace plait
