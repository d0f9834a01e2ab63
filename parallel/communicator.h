// Communicator: collectives among the ranks of one mesh axis (or product of axes). Every operation
// takes the stream it is ordered on and returns the event of its completion; buffers may be reused
// only after that event. All ranks call the same operations in the same order with matching sizes.
// Reductions have one fixed order of ranks.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/stream.h"
#include "base/view.h"

namespace plait {

enum class ReduceOperation { kSum, kMax };

class Communicator {
 public:
  virtual ~Communicator() = default;

  virtual int rank() const = 0;
  virtual int size() const = 0;

  // output = the inputs of all ranks, in rank order. output.size = size() x input.size.
  virtual absl::StatusOr<Event> AllGather(Stream& stream, ConstVectorView input,
                                          VectorView output) = 0;
  // output = this rank's part of the element-wise sum. input.size = size() x output.size.
  virtual absl::StatusOr<Event> ReduceScatter(Stream& stream, ConstVectorView input,
                                              VectorView output) = 0;
  // In place; the same bits on every rank.
  virtual absl::StatusOr<Event> AllReduce(Stream& stream, VectorView buffer,
                                          ReduceOperation operation) = 0;
  virtual absl::StatusOr<Event> Broadcast(Stream& stream, VectorView buffer, int root) = 0;
  // Element counts per peer, in rank order; data packed without gaps.
  virtual absl::StatusOr<Event> AllToAll(Stream& stream, ConstVectorView input,
                                         std::span<const int64_t> input_counts, VectorView output,
                                         std::span<const int64_t> output_counts) = 0;
  virtual absl::StatusOr<Event> Send(Stream& stream, ConstVectorView buffer, int peer) = 0;
  virtual absl::StatusOr<Event> Receive(Stream& stream, VectorView buffer, int peer) = 0;
  // Waits on the host for every rank.
  virtual absl::Status Barrier() = 0;
  // Ends the job on all ranks with this reason.
  virtual void Abort(std::string_view reason) = 0;
};

// The communicator of a run with one rank: every collective is a copy or nothing. Send and Receive
// are InvalidArgument: there is no peer.
std::unique_ptr<Communicator> MakeSingleRankCommunicator();

}  // namespace plait
