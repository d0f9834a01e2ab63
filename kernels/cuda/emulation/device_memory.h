// While one lives, the host may touch the emulated device's memory: kernels and copies do.
#pragma once

namespace plait::emulation {

class DeviceMemoryAccess {
 public:
  DeviceMemoryAccess();
  ~DeviceMemoryAccess();
  DeviceMemoryAccess(const DeviceMemoryAccess&) = delete;
  DeviceMemoryAccess& operator=(const DeviceMemoryAccess&) = delete;
};

}  // namespace plait::emulation
