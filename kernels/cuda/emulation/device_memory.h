// The emulated device's memory. The host can touch it only while a kernel or copy runs, so that
// code that mistakes a device's pointer for the host's ends at once: at the first access, in a
// build with AddressSanitizer by its report, else by a signal after a line that says so (not with
// ThreadSanitizer). AddressSanitizer also reports accesses beyond what was asked for and to blocks
// that were given back. Memory that nobody wrote yet, or that was given back, is NaN (0xff).
// Thread-safe; while any thread's kernel runs, all threads can touch all of it.
#pragma once

#include <cstddef>

namespace plait::emulation {

inline constexpr size_t kDeviceMemoryBytes = size_t{8} << 30;  // of addresses

// 256-byte aligned; null where there is none left.
void* AllocateDeviceMemory(size_t bytes);
void FreeDeviceMemory(void* block);
// Of a block, the first `bytes` are in use from here on, or none.
void UseDeviceMemory(void* block, size_t bytes);

// While one lives, the host may touch the emulated device's memory: kernels and copies do.
class DeviceMemoryAccess {
 public:
  DeviceMemoryAccess();
  ~DeviceMemoryAccess();
  DeviceMemoryAccess(const DeviceMemoryAccess&) = delete;
  DeviceMemoryAccess& operator=(const DeviceMemoryAccess&) = delete;
};

}  // namespace plait::emulation
