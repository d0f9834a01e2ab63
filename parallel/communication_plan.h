// What one training step moves, as integers, from the layout alone: to compare with what the ledger
// counted, and to plan a run before it starts.
//
// Bytes are those that one rank receives from others (all ranks of a group receive the same), N
// being the ranks of the group, s the share of a section (its elements / N) and w the width of an
// element:
//   all-gather                 (N - 1) s w
//   gradients to their owners  (N - 1) s w, by messages and through the window alike
//   all-reduce of n elements   2 (N - 1) ceil(n / N) w
// Between stages of the pipeline (model/language_model.h), counted where they are sent: forwards
// the stream twice, and 4 + 2 experts numbers; backwards its gradient, and experts numbers. A
// microbatch gathers, by messages, the embedding and the head once (both ends of the model), every
// block twice (forward and backward). Through a shared window weights are read in place: 0 bytes.
#pragma once

#include <cstdint>
#include <vector>

#include "parallel/parameter_sharder.h"

namespace plait {

// 64-bit words of the gradient norm's sum (optim/exact_sum.h).
inline constexpr int64_t kNormWords = 69;

struct StepShape {
  int64_t microbatches = 1;  // of one rank
  // Numbers of the activation watch: per block 2 sums and 1 maximum; per expert layer 2 and 1 for
  // each expert, and 3 maxima of its load.
  int64_t watch_sums = 0;
  int64_t watch_maxima = 0;
  // Of a pipeline.
  int64_t chunks = 1;        // parts of the model per stage
  int64_t stream_bytes = 0;  // rows x model_dim in the compute dtype
  int64_t experts = 0;
};

struct CommunicationPlan {
  int64_t gather_bytes = 0;    // weights
  int64_t gradient_bytes = 0;  // of every microbatch, to their owners
  int64_t replica_bytes = 0;   // gradients over the replicate axis, once a step
  int64_t stage_bytes = 0;     // between stages of the pipeline
  int64_t control_bytes = 0;   // counts, losses, watch, norm, agreement

  int64_t total() const {
    return gather_bytes + gradient_bytes + replica_bytes + stage_bytes + control_bytes;
  }
};

// units: sections by unit, as the sharder lays them out; windows: whether ranks of the shard axis
// share memory.
CommunicationPlan PlanStep(const DeviceMesh& mesh,
                           const std::vector<std::vector<SectionLayout>>& units,
                           const SharderOptions& options, bool windows, const StepShape& step);

}  // namespace plait
