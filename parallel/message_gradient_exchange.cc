#include "base/status_macros.h"
#include "parallel/element_reduction.h"
#include "parallel/gradient_exchange.h"

namespace plait {
namespace {

class MessageGradientExchange final : public GradientExchange {
 public:
  MessageGradientExchange(Communicator& communicator, DType wire)
      : communicator_(communicator), wire_(wire) {}

  bool IsFull(bool held) const override { return !held && leases_ == kMessageLeases; }

  absl::StatusOr<Lease> Acquire(Execution& execution, DType dtype,
                                std::span<const int64_t> elements, bool held) override {
    Lease lease;
    lease.slot = held ? kHeld : 0;
    if (!held) ++leases_;
    for (const int64_t size : elements) lease.buffers.push_back(execution.Zeros(dtype, {size}));
    return lease;
  }

  absl::Status Start(Execution& execution, Lease& lease) override {
    for (Tensor& buffer : lease.buffers) {
      Tensor sent = buffer;
      if (wire_ == DType::kBf16 && buffer.dtype() == DType::kF32) {
        sent = execution.Empty(DType::kBf16, buffer.shape());
        PLAIT_RETURN_IF_ERROR(ConvertElements(execution, buffer.vector(), sent.vector()));
      }
      Tensor received = execution.Empty(sent.dtype(), sent.shape());
      const std::vector<int64_t> counts(static_cast<size_t>(communicator_.size()),
                                        buffer.num_elements() / communicator_.size());
      PLAIT_ASSIGN_OR_RETURN(
          Event event, communicator_.AllToAll(execution.communication_after_compute(),
                                              sent.vector(), counts, received.vector(), counts));
      lease.wire.push_back(std::move(sent));
      lease.received.push_back(std::move(received));
      lease.events.push_back(std::move(event));
    }
    lease.buffers.clear();  // kept by `wire` where they are still being sent
    return absl::OkStatus();
  }

  bool IsReady(const Lease&) const override { return true; }

  absl::Status Finish(Execution& execution, Lease& lease, const Fold& fold) override {
    const int ranks = communicator_.size();
    for (size_t section = 0; section < lease.received.size(); ++section) {
      PLAIT_RETURN_IF_ERROR(execution.compute().Wait(lease.events[section]));
      const Tensor& received = lease.received[section];
      const int64_t share = received.num_elements() / ranks;
      std::vector<const void*> pieces;
      for (int rank = 0; rank < ranks; ++rank) {
        pieces.push_back(received.Flat(rank * share, {share}).raw());
      }
      PLAIT_RETURN_IF_ERROR(fold(static_cast<int>(section), received.dtype(), pieces, share));
    }
    if (lease.slot != kHeld) --leases_;
    lease = Lease();
    return absl::OkStatus();
  }

 private:
  static constexpr int kHeld = 1;

  Communicator& communicator_;
  DType wire_;
  int leases_ = 0;  // but held ones
};

}  // namespace

std::unique_ptr<GradientExchange> MakeMessageGradientExchange(Communicator& communicator,
                                                              DType wire) {
  return std::make_unique<MessageGradientExchange>(communicator, wire);
}

}  // namespace plait
