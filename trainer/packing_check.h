// That documents packed into one microbatch do not see one another: document B after a document A
// has, bit for bit, the same log-probabilities and the same gradient of its input whatever A holds
// and, on one rank, however long it is. On several ranks A and B lie across the parts of the
// context and tensor axes, and their rows meet in the experts. Weight is on B only and losses
// inside the blocks are off, so that nothing else joins the two. The gradient of B's input is read
// from the embedding: B's ids are not A's, and each row of the embedding's gradient is the sum of
// its tokens', in their order.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "parallel/communicator.h"
#include "trainer/checked_layouts.h"

namespace plait {

struct PackingVerdict {
  int documents = 0;                // A's that B was put behind
  int64_t differing_outputs = 0;    // log-probabilities of B, over all of them and all ranks
  int64_t differing_gradients = 0;  // elements of its input's gradient

  bool ok() const { return differing_outputs == 0 && differing_gradients == 0; }
};

// To see the check fail: A and B are one document.
enum class PackingFault { kNone, kOneDocument };

// Layouts that it is checked on, one rank first; pipeline stages add nothing.
const std::vector<CheckedLayout>& PackingLayouts();

// Collective over the layout's ranks; the same answer on each. model: not the tied one, whose
// embedding has the head's gradient too.
absl::StatusOr<PackingVerdict> CheckPacking(const std::shared_ptr<Communicator>& world,
                                            CheckedModel model, DType precision,
                                            const CheckedLayout& layout,
                                            PackingFault fault = PackingFault::kNone,
                                            const ExecutionOptions& execution = {.num_threads = 1});

// The same with the ranks as threads of this process.
absl::StatusOr<PackingVerdict> CheckPacking(CheckedModel model, DType precision,
                                            const CheckedLayout& layout,
                                            PackingFault fault = PackingFault::kNone,
                                            const DeviceOfRank& device_of_rank = OneThread);

}  // namespace plait
