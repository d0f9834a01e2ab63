// Memory shared by processes of one host: a nameless file in memory that one process makes and
// others map by its owner's process id and descriptor. Nothing is left behind when the processes
// end, however they end.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

#include "absl/status/statusor.h"

namespace plait {

struct HostMemoryHandle {
  int64_t process = 0;
  int64_t descriptor = -1;
};

class HostMemory {
 public:
  // Zeroed, 4096-byte aligned. Others may map it until the creator calls Close.
  static absl::StatusOr<HostMemory> Make(size_t bytes);
  // Maps another process's memory. Unavailable where it cannot be reached (other host or
  // container).
  static absl::StatusOr<HostMemory> Map(const HostMemoryHandle& handle, size_t bytes);

  const HostMemoryHandle& handle() const { return handle_; }
  // Unmapped with its last owner.
  const std::shared_ptr<void>& data() const { return data_; }
  // The memory can no longer be mapped anew; mappings stay.
  void Close();

 private:
  HostMemoryHandle handle_;
  std::shared_ptr<void> data_;
};

}  // namespace plait
