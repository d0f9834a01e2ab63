// Caching allocator of host, device or pinned memory: freed blocks are kept by size class and
// handed out again, so that a step in its steady state asks the system for nothing. Thread-safe.
// Blocks are 64-byte aligned (a device's 256-byte); sizes are rounded up to a class (eight classes
// per power of two, so at most 12.5 % is lost). Memory that the system refuses ends the process
// with exit code 75, naming the size asked for and the bytes held.
//
// A device's memory may be reserved: blocks are ranges of what was taken at once (arena.h). Those
// that do not fit come from the system one by one, as above.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <vector>

#include "base/arena.h"
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

  // Of a device's, before the first block: takes so many bytes for blocks. False where there are
  // not so many, and then nothing is changed.
  bool Reserve(size_t bytes);
  // 0 where nothing is.
  size_t reserved_bytes() const;
  // As many bytes reserved would have held what was in use so far: the highest end of a block, and
  // what was taken beside the reserved bytes.
  size_t reserved_bytes_needed() const;

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
  // Where a block is: a place in the arena, beside it for want of room, or neither.
  struct Place {
    std::optional<size_t> in_arena;
    bool is_beside = false;
  };
  // Whether the device knows the block by itself.
  bool IsWatched(const Place& place) const {
    return kind_ == Kind::kDevice && (!place.in_arena || reserved_ == nullptr);
  }
  void Release(void* block, size_t size_class, const Place& place);

  const std::shared_ptr<DeviceRuntime> runtime_;
  const Kind kind_;
  mutable std::mutex mutex_;
  std::map<size_t, std::vector<void*>> cached_;
  std::optional<Arena> arena_;
  // What the arena's places are in; null for a device that does not allow parts, whose blocks are
  // apart and only counted by it.
  char* reserved_ = nullptr;
  size_t beside_ = 0;  // bytes in use that the arena had no room for
  size_t beside_peak_ = 0;
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
