// What one rank holds in a step of training: the model's passes in the order of the pipeline's
// schedule, and the sharder under them, played on a timeline. Nothing is computed and no memory is
// taken. Counted: everything that comes from Execution's allocator, in its size classes, kernels'
// scratch with it (kernels/scratch.h says what of that is not), and the rank's part of windows that
// the ranks of a host share. Not counted: a batch's tokens and offsets on the host (28 bytes a
// token), temporaries inside communicators, code and libraries.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "model/block_memory.h"
#include "model/language_model.h"
#include "parallel/sharder_memory.h"
#include "recipes/pipeline_partition.h"

namespace plait {

// A part of the model on this rank's stage of the pipeline.
struct PlannedPart {
  BlockRange range;
  bool is_first = true;
  bool is_last = true;
};
// Of the whole pipeline's parts those of the mesh's stage, in the order of its chunks.
std::vector<PlannedPart> PartsOfStage(const DeviceMesh& mesh, std::span<const BlockRange> parts);

struct MemoryPlanOptions {
  Recomputation recomputation = Recomputation::kNone;
  SharderOptions sharder;
  bool windows = false;  // ranks share the memory of one host
  int64_t microbatches = 1;
  std::vector<PlannedPart> parts;  // of this rank
};

// One kind of block.
struct BlockKindMemory {
  std::string kind;
  int64_t blocks = 0;     // on this rank
  int64_t kept = 0;       // bytes that the forward leaves to the backward, of one block
  int64_t workspace = 0;  // most bytes beside those while its forward or backward runs
};

struct MemoryPlan {
  int64_t total = 0;                  // most bytes held at a time
  MemoryTimeline::Classes classes{};  // of what `total` consists
  int64_t worst_total = 0;            // where all tokens choose experts of one rank
  // Of the host, pinned for a device's copies in a step (base/pinned_staging.h): at most, where the
  // device has come to nothing of what one microbatch sends and fetches, nor to the gradients'
  // norm.
  int64_t pinned = 0;
  std::vector<BlockKindMemory> kinds;
};

// model: made over `mesh`; its units say which parameters this rank has. sizes: of the rank.
MemoryPlan PlanMemory(const DeviceMesh& mesh, LanguageModel& model, const RankSizes& sizes,
                      const MemoryPlanOptions& options);

}  // namespace plait
