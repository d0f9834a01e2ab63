#include "parallel/shared_window.h"

#include <sched.h>
#include <time.h>

#include "base/check.h"
#include "base/status_macros.h"

namespace plait {
namespace {

void Relax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

// Waits that soon end are spun; longer ones leave the core to others, ever more of it.
constexpr int kSpins = 2'000;
constexpr int kYields = 2'000;
constexpr long kSleepNanoseconds = 50'000;

}  // namespace

absl::StatusOr<std::unique_ptr<SharedWindow>> SharedWindow::Create(Communicator& communicator,
                                                                   size_t bytes, int num_flags) {
  const int flags = num_flags + 1;  // and that of Meet
  const size_t words = static_cast<size_t>(flags) * static_cast<size_t>(communicator.size());
  PLAIT_ASSIGN_OR_RETURN(std::shared_ptr<void> memory,
                         communicator.AllocateShared(words * sizeof(Word) + bytes));
  if (memory == nullptr) return nullptr;
  return std::unique_ptr<SharedWindow>(new SharedWindow(communicator, std::move(memory), flags));
}

Tensor SharedWindow::tensor(size_t offset_bytes, DType dtype, const Shape& shape) const {
  const size_t words = static_cast<size_t>(num_flags_) * static_cast<size_t>(communicator_.size());
  return Tensor::Over(memory_, words * sizeof(Word) + offset_bytes, dtype, shape);
}

void SharedWindow::Post(int flag, int64_t value) {
  PLAIT_CHECK(flag >= 0 && flag < num_flags_);
  word(flag, communicator_.rank()).value.store(value, std::memory_order_release);
}

bool SharedWindow::AllReached(int flag, int64_t value) const {
  for (int rank = 0; rank < communicator_.size(); ++rank) {
    if (word(flag, rank).value.load(std::memory_order_acquire) < value) return false;
  }
  return true;
}

absl::Status SharedWindow::WaitForAll(int flag, int64_t value, std::source_location site) {
  PLAIT_CHECK(flag >= 0 && flag < num_flags_);
  communicator_.EnterSharedWait(site);
  if (AllReached(flag, value)) return absl::OkStatus();
  const CollectiveLedger::Waiting waiting(communicator_.ledger());
  for (int i = 0; i < kSpins; ++i) {
    Relax();
    if (AllReached(flag, value)) return absl::OkStatus();
  }
  for (int i = 0; i < kYields; ++i) {
    sched_yield();
    if (AllReached(flag, value)) return absl::OkStatus();
    // On a crowded machine even these take seconds.
    if (i % 100 == 99) PLAIT_RETURN_IF_ERROR(communicator_.JobStatus());
  }
  while (!AllReached(flag, value)) {
    PLAIT_RETURN_IF_ERROR(communicator_.JobStatus());
    const timespec pause{0, kSleepNanoseconds};
    nanosleep(&pause, nullptr);
  }
  return absl::OkStatus();
}

absl::Status SharedWindow::Meet(std::source_location site) {
  Post(0, ++meetings_);
  return WaitForAll(0, meetings_, site);
}

}  // namespace plait
