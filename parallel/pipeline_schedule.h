// Pipeline schedules: for every stage, the list of what it does in a step, in order. The model is
// cut into stages x chunks parts; part v lies on stage v mod stages, as its chunk v / stages, so
// that every part's output goes to the next stage (from the last to the first, one chunk on).
//   one forward, one backward (1F1B): stage s runs min(microbatches, stages - 1 - s) forward
//     passes ahead, then a forward and a backward pass in turn, then the backward passes left; it
//     keeps the activations of at most stages - s microbatches.
//   interleaved: several chunks a stage. Microbatches go through the chunks in groups of at least
//     `stages`; stage s runs 2 (stages - 1 - s) + (chunks - 1) x group forward passes ahead.
// With equal costs of all passes, m microbatches, p stages and c chunks a step takes as long as
// 2 (max(m, p) c + min(m, p) - 1) passes of one part: with m >= p each stage is idle for 2 (p - 1).
//
// Messages stand in the lists where the receiving part needs them, in one order that all stages
// follow: sends and receives that wait for one another do not deadlock.
//
// Sources: Narayanan et al., "PipeDream", 2019 (1F1B); Narayanan et al., "Efficient Large-Scale
// Language Model Training on GPU Clusters", 2021 (interleaved).
#pragma once

#include <cstdint>
#include <vector>

namespace plait {

enum class PipelineActionKind {
  kForward,
  kBackward,
  kReceiveActivations,  // input of the chunk's forward pass, from the stage before
  kSendActivations,     // output of it, to the stage after
  kReceiveGradients,    // of the chunk's output, from the stage after
  kSendGradients,       // of the chunk's input, to the stage before
};

struct PipelineAction {
  PipelineActionKind kind = PipelineActionKind::kForward;
  int64_t chunk = 0;  // of this stage
  int64_t microbatch = 0;

  friend bool operator==(const PipelineAction&, const PipelineAction&) = default;
};

using PipelineActions = std::vector<PipelineAction>;

// By stage. Sizes are at least 1. With one stage there is nobody to send to: what one chunk hands
// to the next is in no list.
std::vector<PipelineActions> OneForwardOneBackward(int64_t stages, int64_t microbatches);
std::vector<PipelineActions> InterleavedOneForwardOneBackward(int64_t stages, int64_t chunks,
                                                              int64_t microbatches);
// Forward passes alone, for evaluation.
std::vector<PipelineActions> ForwardOnly(int64_t stages, int64_t chunks, int64_t microbatches);

}  // namespace plait
