// GradientExchange: brings the pieces of a unit's gradients from all ranks of a group to the ranks
// that own them. A rank acquires zeroed buffers, the layers add to them, Start says that they are
// complete here, and Finish waits for those of the other ranks and hands this rank's piece of every
// rank's buffer over, in rank order. Between Start and Finish the rank goes on computing; how many
// leases there can be at a time bounds how far ranks of different speed drift apart.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/execution.h"
#include "parallel/communicator.h"

namespace plait {

// Leases at a time by messages, but those of held units.
inline constexpr int kMessageLeases = 2;

class GradientExchange {
 public:
  struct Lease {
    std::vector<Tensor> buffers;  // one a section, all elements of it
    // The implementation's own.
    int slot = -1;
    int64_t use = 0;
    std::vector<Tensor> wire;      // what is sent, where it is not the buffer itself
    std::vector<Tensor> received;  // [ranks x share] per section
    std::vector<Event> events;
  };
  // pieces: elements of this rank's share of the section, one per rank, of `dtype`.
  using Fold = std::function<absl::Status(int section, DType dtype,
                                          std::span<const void* const> pieces, int64_t elements)>;

  virtual ~GradientExchange() = default;

  // Whether another lease (held: of a unit that is held while others come and go) needs an earlier
  // one to be finished first.
  virtual bool IsFull(bool held) const = 0;
  // Not while it is full. Every size a multiple of the group's ranks. All ranks acquire in the same
  // order.
  virtual absl::StatusOr<Lease> Acquire(Execution& execution, DType dtype,
                                        std::span<const int64_t> elements, bool held) = 0;
  virtual absl::Status Start(Execution& execution, Lease& lease) = 0;
  // Whether it is worth finishing now: for a window, that nobody has to be waited for.
  virtual bool IsReady(const Lease& lease) const = 0;
  virtual absl::Status Finish(Execution& execution, Lease& lease, const Fold& fold) = 0;
};

// Through a window of the host that all ranks of the group are on: nothing is copied, owners read.
// slot_bytes: of the largest lease; slots: leases at a time, and one more for a held unit if asked
// for. nullptr where the ranks are on several hosts. Collective.
absl::StatusOr<std::unique_ptr<GradientExchange>> MakeSharedGradientExchange(
    Communicator& communicator, size_t slot_bytes, int slots, bool with_held);

// Through messages: each rank sends every owner its piece, f32 rounded to bf16 on the way if wire
// is bf16, and the owner gets them all. The communicator outlives it.
std::unique_ptr<GradientExchange> MakeMessageGradientExchange(Communicator& communicator,
                                                              DType wire);

}  // namespace plait
