#include "parallel/host_memory.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <string>

#include "absl/strings/str_cat.h"

namespace plait {
namespace {

absl::StatusOr<std::shared_ptr<void>> MapDescriptor(int descriptor, size_t bytes) {
  void* memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, descriptor, 0);
  if (memory == MAP_FAILED) {
    return absl::ResourceExhaustedError(
        absl::StrCat("shared memory: cannot map ", bytes, " bytes: ", std::strerror(errno)));
  }
  return std::shared_ptr<void>(memory, [bytes](void* mapped) { munmap(mapped, bytes); });
}

}  // namespace

absl::StatusOr<HostMemory> HostMemory::Make(size_t bytes) {
  bytes = std::max<size_t>(bytes, 1);
  const int descriptor = memfd_create("plait", MFD_CLOEXEC);
  if (descriptor < 0 || ftruncate(descriptor, static_cast<off_t>(bytes)) != 0) {
    const int error = errno;
    if (descriptor >= 0) close(descriptor);
    return absl::ResourceExhaustedError(
        absl::StrCat("shared memory: cannot make ", bytes, " bytes: ", std::strerror(error)));
  }
  HostMemory memory;
  memory.handle_ = {getpid(), descriptor};
  absl::StatusOr<std::shared_ptr<void>> data = MapDescriptor(descriptor, bytes);
  if (!data.ok()) {
    memory.Close();
    return data.status();
  }
  memory.data_ = *std::move(data);
  return memory;
}

absl::StatusOr<HostMemory> HostMemory::Map(const HostMemoryHandle& handle, size_t bytes) {
  bytes = std::max<size_t>(bytes, 1);
  const std::string path = absl::StrCat("/proc/", handle.process, "/fd/", handle.descriptor);
  const int descriptor = open(path.c_str(), O_RDWR | O_CLOEXEC);
  if (descriptor < 0) {
    return absl::UnavailableError(
        absl::StrCat("shared memory: ", path, ": ", std::strerror(errno)));
  }
  absl::StatusOr<std::shared_ptr<void>> data = MapDescriptor(descriptor, bytes);
  close(descriptor);
  if (!data.ok()) return data.status();
  HostMemory memory;
  memory.data_ = *std::move(data);
  return memory;
}

void HostMemory::Close() {
  if (handle_.descriptor >= 0) close(static_cast<int>(handle_.descriptor));
  handle_.descriptor = -1;
}

}  // namespace plait
