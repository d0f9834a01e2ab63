#include <cstdlib>
#include <cstring>
#include <string>

#include "absl/strings/str_cat.h"
#include "base/log.h"
#include "base/status_macros.h"
#include "parallel/communicator.h"

namespace plait {
namespace {

// A bug of ours or a lost peer both end here; 70 is the documented code for the first.
constexpr int kExitAborted = 70;

absl::Status CheckRoot(const char* operation, int root) {
  if (root == 0) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(operation, ": rank ", root, " does not exist, the run has one rank"));
}

// output = input; both must have the same dtype and size.
absl::Status Copy(const char* operation, ConstVectorView input, VectorView output) {
  if (input.dtype != output.dtype || input.size != output.size) {
    return absl::InvalidArgumentError(
        absl::StrCat(operation, ": expected an output of ", input.size, " ", Name(input.dtype),
                     " elements, got ", output.size, " ", Name(output.dtype)));
  }
  if (input.size > 0 && input.data != output.data) {
    std::memmove(output.data, input.data, static_cast<size_t>(input.size) * SizeOf(input.dtype));
  }
  return absl::OkStatus();
}

class SingleRankCommunicator final : public Communicator {
 public:
  int rank() const override { return 0; }
  int size() const override { return 1; }

  absl::StatusOr<Event> AllGather(Stream& stream, ConstVectorView input,
                                  VectorView output) override {
    PLAIT_RETURN_IF_ERROR(Copy("all-gather", input, output));
    return stream.Record();
  }

  absl::StatusOr<Event> ReduceScatter(Stream& stream, ConstVectorView input,
                                      VectorView output) override {
    PLAIT_RETURN_IF_ERROR(Copy("reduce-scatter", input, output));
    return stream.Record();
  }

  absl::StatusOr<Event> AllReduce(Stream& stream, VectorView, ReduceOperation) override {
    return stream.Record();
  }

  absl::StatusOr<Event> Broadcast(Stream& stream, VectorView, int root) override {
    PLAIT_RETURN_IF_ERROR(CheckRoot("broadcast", root));
    return stream.Record();
  }

  absl::StatusOr<Event> AllToAll(Stream& stream, ConstVectorView input,
                                 std::span<const int64_t> input_counts, VectorView output,
                                 std::span<const int64_t> output_counts) override {
    if (input_counts.size() != 1 || output_counts.size() != 1 || input_counts[0] != input.size ||
        output_counts[0] != output.size) {
      return absl::InvalidArgumentError(absl::StrCat(
          "all-to-all: expected one count per rank (1) equal to the buffer's size, got ",
          input_counts.size(), " input and ", output_counts.size(),
          " output counts for buffers of ", input.size, " and ", output.size, " elements"));
    }
    PLAIT_RETURN_IF_ERROR(Copy("all-to-all", input, output));
    return stream.Record();
  }

  absl::StatusOr<Event> Send(Stream&, ConstVectorView, int peer) override {
    return NoPeer("send", peer);
  }
  absl::StatusOr<Event> Receive(Stream&, VectorView, int peer) override {
    return NoPeer("receive", peer);
  }

  absl::Status Barrier() override { return absl::OkStatus(); }

  void Abort(std::string_view reason) override {
    LogWarning("rank 0 aborts: " + std::string(reason));
    std::_Exit(kExitAborted);
  }

 private:
  static absl::Status NoPeer(const char* operation, int peer) {
    return absl::InvalidArgumentError(
        absl::StrCat(operation, ": there is no peer ", peer, ", the run has one rank"));
  }
};

}  // namespace

std::unique_ptr<Communicator> MakeSingleRankCommunicator() {
  return std::make_unique<SingleRankCommunicator>();
}

}  // namespace plait
