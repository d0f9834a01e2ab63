// What one training step moves, as integers, from the layout alone: to compare with what the ledger
// counted, and to plan a run before it starts.
//
// Bytes are those that one rank receives from others (all ranks of a group receive the same), N
// being the ranks of the group and w the width of an element:
//   all-gather of shares of s elements          (N - 1) s w
//   reduce-scatter into shares of s elements    (N - 1) s w
//   all-reduce of n elements                    2 (N - 1) ceil(n / N) w
//   all-to-all                                  what comes from others
//   send                                        what is sent
// Here: the sharder and the step's own numbers; what layers move is model/layer_traffic.h.
// Between stages of the pipeline (model/language_model.h), counted where they are sent: forwards
// the stream twice, and 4 + 2 experts numbers; backwards its gradient, and experts numbers.
// A microbatch gathers, by messages, the embedding and the head once (both ends of the model),
// every block twice (forward and backward). Through a shared window weights are read in place: 0
// bytes. A gradient's pieces reach their owners by an all-to-all, or are read through the window.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <string>
#include <vector>

#include "parallel/collective_ledger.h"
#include "parallel/parameter_sharder.h"

namespace plait {

// `what` of the rows of experts' tokens (model/layer_traffic.h).
inline constexpr char kExpertRows[] = "experts' rows";

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

// Collectives of one kind in a step.
struct PlannedCollective {
  std::string what;   // "weights"
  std::string ranks;  // the axes they lie along: "shard x context"
  CollectiveOperation operation = CollectiveOperation::kNone;
  int64_t size = 1;  // ranks of a group
  int64_t calls = 0;
  int64_t bytes = 0;
};

struct CommunicationPlan {
  std::vector<PlannedCollective> collectives;

  // `calls` collectives among `ranks` ranks, each over `elements` of `width` bytes: a share of an
  // all-gather or reduce-scatter, all of an all-reduce, what comes or is sent of the others. Adds
  // up with those of the same name, axes and operation; nothing among one rank.
  void Add(const std::string& what, const std::string& axes, CollectiveOperation operation,
           int64_t ranks, int64_t elements, int64_t width, int64_t calls = 1);
  int64_t total() const;
};

// "shard x context": the axes of more than one rank among them; "-" for none.
std::string AxesText(const DeviceMesh& mesh, std::initializer_list<MeshAxis> axes);
// Those along which the shares of a group lie.
std::string ShareAxesText(const DeviceMesh& mesh, MeshGroup group);

// units: sections by unit, as the sharder lays them out; windows: whether ranks of the shard axis
// share memory.
CommunicationPlan PlanStep(const DeviceMesh& mesh,
                           const std::vector<std::vector<SectionLayout>>& units,
                           const SharderOptions& options, bool windows, const StepShape& step);

}  // namespace plait
