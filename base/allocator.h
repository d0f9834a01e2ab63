// Caching allocator of host, device or pinned memory: freed blocks are kept by size class and
// handed out again, so that a step in its steady state asks the system for nothing. Thread-safe.
// Blocks are 64-byte aligned (a device's 256-byte); sizes are rounded up to a class (eight classes
// per power of two, so at most 12.5 % is lost). Memory that the system refuses ends the process
// with exit code 75, naming the size asked for and the bytes held.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <vector>

#include "base/device_runtime.h"

namespace plait {

class Allocator : public std::enable_shared_from_this<Allocator> {
 public:
  // Of the runtime's device; null: of the host. On a device a block is handed out again while work
  // that used it may still be queued: right for whoever works on the same stream, or waited for it.
  static std::shared_ptr<Allocator> Create(std::shared_ptr<DeviceRuntime> runtime = nullptr) {
    const Kind kind = runtime == nullptr ? Kind::kHost : Kind::kDevice;
    return std::shared_ptr<Allocator>(new Allocator(std::move(runtime), kind));
  }
  // Of the host's memory that the runtime's device copies from and to without a stop on the way.
  static std::shared_ptr<Allocator> CreatePinned(std::shared_ptr<DeviceRuntime> runtime) {
    return std::shared_ptr<Allocator>(new Allocator(std::move(runtime), Kind::kPinned));
  }
  ~Allocator();

  Allocator(const Allocator&) = delete;
  Allocator& operator=(const Allocator&) = delete;

  // What a block of `bytes` takes: its size class.
  static size_t RoundedSize(size_t bytes);

  // Uninitialised block of at least `bytes`; it returns to this allocator with its last owner.
  std::shared_ptr<void> Allocate(size_t bytes);

  // Whether the host reaches its blocks.
  bool is_host() const { return kind_ != Kind::kDevice; }

  // Gives every cached block back to the system.
  void Trim();

  size_t bytes_in_use() const;
  size_t bytes_in_use_peak() const;
  // Starts a new peak from what is in use now.
  void ResetPeak();

 private:
  enum class Kind { kHost, kDevice, kPinned };

  Allocator(std::shared_ptr<DeviceRuntime> runtime, Kind kind)
      : runtime_(std::move(runtime)), kind_(kind) {}
  void* TakeFromSystem(size_t size_class);
  void GiveToSystem(void* block);
  void Release(void* block, size_t size_class);

  const std::shared_ptr<DeviceRuntime> runtime_;
  const Kind kind_;
  mutable std::mutex mutex_;
  std::map<size_t, std::vector<void*>> cached_;
  size_t in_use_ = 0;
  size_t peak_ = 0;
};

// Zeroed host memory of its own, 64-byte aligned.
std::shared_ptr<void> AllocateZeroed(size_t bytes);

// Where host memory comes from, of AllocateZeroed and of every host allocator.
struct HostMemorySource {
  // Uninitialised, 64-byte aligned, of a multiple of 64 bytes; null where there is none left.
  void* (*allocate)(size_t bytes);
  void (*free)(void* block);
};

// In place of the C library, from then on. For tests on a device, whose kernels work on the host's
// tensors. Before any other thread is started; what was allocated before must not be freed after.
void SetHostMemorySource(HostMemorySource source);

}  // namespace plait
