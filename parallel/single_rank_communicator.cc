#include <cstdlib>
#include <string>

#include "base/allocator.h"
#include "base/log.h"
#include "base/status_macros.h"
#include "parallel/communicator.h"

namespace plait {
namespace {

class SingleRankCommunicator final : public Communicator {
 public:
  explicit SingleRankCommunicator(std::string name)
      : Communicator(0, 1, std::move(name), CollectiveLedger::Single()) {}

  void Abort(std::string_view reason, int exit_code) override {
    LogWarning("rank 0 aborts: " + std::string(reason));
    std::_Exit(exit_code);
  }

 protected:
  absl::StatusOr<Event> DoAllGather(Stream& stream, ConstVectorView input,
                                    VectorView output) override {
    return Copy(stream, input, output);
  }
  absl::StatusOr<Event> DoReduceScatter(Stream& stream, ConstVectorView input,
                                        VectorView output) override {
    return Copy(stream, input, output);
  }
  absl::StatusOr<Event> DoAllReduce(Stream& stream, VectorView, ReduceOperation) override {
    return stream.Record();
  }
  absl::StatusOr<Event> DoBroadcast(Stream& stream, VectorView, int) override {
    return stream.Record();
  }
  absl::StatusOr<Event> DoAllToAll(Stream& stream, ConstVectorView input, std::span<const int64_t>,
                                   VectorView output, std::span<const int64_t>) override {
    return Copy(stream, input, output);
  }
  absl::StatusOr<Event> DoSend(Stream& stream, ConstVectorView, int) override {
    return stream.Record();  // never reached: there is no peer
  }
  absl::StatusOr<Event> DoReceive(Stream& stream, VectorView, int) override {
    return stream.Record();
  }
  absl::Status DoBarrier() override { return absl::OkStatus(); }
  absl::StatusOr<std::shared_ptr<Communicator>> DoSplit(int, int,
                                                        const std::string& name) override {
    return std::make_shared<SingleRankCommunicator>(name);
  }
  absl::StatusOr<std::shared_ptr<void>> DoAllocateShared(size_t bytes) override {
    return AllocateZeroed(bytes);
  }
  absl::Status ExchangeCalls(const CollectiveCall& own, std::span<CollectiveCall> all) override {
    all[0] = own;
    return absl::OkStatus();
  }

 private:
  static absl::StatusOr<Event> Copy(Stream& stream, ConstVectorView input, VectorView output) {
    PLAIT_RETURN_IF_ERROR(stream.Copy(output.data, input.data,
                                      static_cast<size_t>(input.size) * SizeOf(input.dtype)));
    return stream.Record();
  }
};

}  // namespace

std::unique_ptr<Communicator> MakeSingleRankCommunicator() {
  return std::make_unique<SingleRankCommunicator>("world");
}

}  // namespace plait
