// PinnedStaging: copies between host and device by way of pinned memory, so that the host waits for
// nothing when it sends, and chooses when it waits for what it gets. A block is used again when the
// device has come past its copy; while none is free, more are taken. How many there are is how far
// the host runs ahead. Not thread-safe.
#pragma once

#include <cstddef>
#include <deque>
#include <memory>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/allocator.h"
#include "base/stream.h"
#include "base/tensor.h"

namespace plait {

// A tensor on its way to the host.
class HostCopy {
 public:
  HostCopy() = default;
  // Of a tensor that is on the host.
  explicit HostCopy(Tensor there) : copy_(std::move(there)) {}

  // The tensor, once: the host waits until the device has copied it.
  absl::StatusOr<Tensor> Wait();

 private:
  friend class PinnedStaging;

  Tensor copy_;
  std::shared_ptr<void> pinned_;  // where the device writes it; null: to `copy_` itself
  Event copied_;
};

class PinnedStaging {
 public:
  // Larger ones are copied from and to where they are, for which the host may wait: state that is
  // initialised, loaded and saved.
  static constexpr size_t kMaxBytes = size_t{16} << 20;

  explicit PinnedStaging(std::shared_ptr<DeviceRuntime> runtime)
      : pinned_(Allocator::CreatePinned(std::move(runtime))) {}
  // Waits for copies under way.
  ~PinnedStaging();

  PinnedStaging(const PinnedStaging&) = delete;
  PinnedStaging& operator=(const PinnedStaging&) = delete;

  // To device memory, in the order of the stream. `from` may change as soon as this returns.
  absl::Status Send(Stream& stream, const void* from, void* to, size_t bytes);
  // Of a tensor on the device, in the order of the stream.
  absl::StatusOr<HostCopy> Fetch(Stream& stream, const Tensor& tensor);

  // Most bytes of pinned memory that were in use at a time; blocks that wait for their next use are
  // not in it.
  size_t bytes_peak() const { return pinned_->bytes_in_use_peak(); }

 private:
  struct UnderWay {
    Event copied;
    std::shared_ptr<void> block;
  };
  // With those that are done given back.
  std::shared_ptr<void> TakeBlock(size_t bytes);

  const std::shared_ptr<Allocator> pinned_;
  std::deque<UnderWay> under_way_;  // in the order of their copies
};

}  // namespace plait
