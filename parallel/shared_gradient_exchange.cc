#include <numeric>

#include "base/check.h"
#include "base/status_macros.h"
#include "parallel/gradient_exchange.h"
#include "parallel/shared_window.h"

namespace plait {
namespace {

constexpr size_t kAlignment = 64;

// Every rank has `slots` slots in the window. Two flags a slot count its uses: complete (the
// buffers of a use are) and read (this rank has read everybody's). A slot's next use waits until
// all have read the last one.
class SharedGradientExchange final : public GradientExchange {
 public:
  SharedGradientExchange(Communicator& communicator, std::unique_ptr<SharedWindow> window,
                         size_t slot_bytes, int slots, int all_slots)
      : communicator_(communicator),
        window_(std::move(window)),
        slot_bytes_(slot_bytes),
        slots_(slots),
        uses_(static_cast<size_t>(all_slots), 0),
        taken_(static_cast<size_t>(all_slots), false) {}

  bool IsFull(bool held) const override { return taken_[static_cast<size_t>(NextSlot(held))]; }

  absl::StatusOr<Lease> Acquire(Execution&, DType dtype, std::span<const int64_t> elements,
                                bool held) override {
    PLAIT_CHECK(!IsFull(held));
    Lease lease;
    lease.slot = NextSlot(held);
    if (!held) ++acquired_;
    taken_[lease.slot] = true;
    PLAIT_RETURN_IF_ERROR(window_->WaitForAll(ReadFlag(lease.slot), uses_[lease.slot]));
    lease.use = ++uses_[lease.slot];
    size_t offset = Begin(communicator_.rank(), lease.slot);
    for (const int64_t size : elements) {
      lease.buffers.push_back(window_->tensor(offset, dtype, {size}));
      lease.buffers.back().FillZero();
      offset += lease.buffers.back().bytes();
      PLAIT_CHECK(offset % kAlignment == 0);
    }
    PLAIT_CHECK(offset <= Begin(communicator_.rank(), lease.slot) + slot_bytes_);
    return lease;
  }

  absl::Status Start(Execution&, Lease& lease) override {
    window_->Post(CompleteFlag(lease.slot), lease.use);
    return absl::OkStatus();
  }

  bool IsReady(const Lease& lease) const override {
    return window_->AllReached(CompleteFlag(lease.slot), lease.use);
  }

  absl::Status Finish(Execution&, Lease& lease, const Fold& fold) override {
    PLAIT_RETURN_IF_ERROR(window_->WaitForAll(CompleteFlag(lease.slot), lease.use));
    const int ranks = communicator_.size();
    size_t section_begin = 0;
    for (size_t section = 0; section < lease.buffers.size(); ++section) {
      const Tensor& buffer = lease.buffers[section];
      const int64_t share = buffer.num_elements() / ranks;
      const size_t skip = section_begin + static_cast<size_t>(communicator_.rank() * share) *
                                              SizeOf(buffer.dtype());
      std::vector<Tensor> views;
      std::vector<const void*> pieces;
      for (int rank = 0; rank < ranks; ++rank) {
        views.push_back(window_->tensor(Begin(rank, lease.slot) + skip, buffer.dtype(), {share}));
        pieces.push_back(views.back().raw());
      }
      PLAIT_RETURN_IF_ERROR(fold(static_cast<int>(section), buffer.dtype(), pieces, share));
      communicator_.ledger().AddBytes((ranks - 1) * share *
                                      static_cast<int64_t>(SizeOf(buffer.dtype())));
      section_begin += buffer.bytes();
    }
    window_->Post(ReadFlag(lease.slot), lease.use);
    taken_[lease.slot] = false;
    lease.buffers.clear();
    return absl::OkStatus();
  }

 private:
  int NextSlot(bool held) const { return held ? slots_ : static_cast<int>(acquired_ % slots_); }
  static int CompleteFlag(int slot) { return 1 + 2 * slot; }
  static int ReadFlag(int slot) { return 2 + 2 * slot; }
  size_t Begin(int rank, int slot) const {
    return (static_cast<size_t>(rank) * taken_.size() + static_cast<size_t>(slot)) * slot_bytes_;
  }

  Communicator& communicator_;
  std::unique_ptr<SharedWindow> window_;
  size_t slot_bytes_;
  int slots_;                  // but the held unit's
  int64_t acquired_ = 0;       // leases of them
  std::vector<int64_t> uses_;  // of each slot so far
  std::vector<bool> taken_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<GradientExchange>> MakeSharedGradientExchange(
    Communicator& communicator, size_t slot_bytes, int slots, bool with_held) {
  const int all_slots = slots + (with_held ? 1 : 0);
  const size_t aligned = (slot_bytes + kAlignment - 1) / kAlignment * kAlignment;
  PLAIT_ASSIGN_OR_RETURN(std::unique_ptr<SharedWindow> window,
                         SharedWindow::Create(communicator,
                                              aligned * static_cast<size_t>(all_slots) *
                                                  static_cast<size_t>(communicator.size()),
                                              2 * all_slots));
  if (window == nullptr) return nullptr;
  return std::make_unique<SharedGradientExchange>(communicator, std::move(window), aligned, slots,
                                                  all_slots);
}

}  // namespace plait
