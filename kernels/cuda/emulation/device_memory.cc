#include "kernels/cuda/emulation/device_memory.h"

#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <set>

#include "base/check.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#endif

namespace plait::emulation {
namespace {

constexpr size_t kAlignment = 256;
constexpr size_t kPage = 4096;

// Blocks of the system's, so that a sanitizer knows their ends.
class SystemBlocks {
 public:
  void* Take(size_t bytes) { return std::aligned_alloc(kAlignment, bytes); }
  void Free(void* block) { std::free(block); }
#if defined(__SANITIZE_ADDRESS__)
  static constexpr bool kEach = true;  // Open and Close do something
  void Open(void* block, size_t bytes) { ASAN_UNPOISON_MEMORY_REGION(block, bytes); }
  void Close(void* block, size_t bytes) { ASAN_POISON_MEMORY_REGION(block, bytes); }
#else
  static constexpr bool kEach = false;
  void Open(void*, size_t) {}
  void Close(void*, size_t) {}
#endif
  void OpenAll() {}
  void CloseAll() {}
};

// Blocks of one region of addresses, one after another; what is freed is handed out again only
// when everything is free, for the caching allocator above keeps its blocks.
class RegionBlocks {
 public:
  static constexpr bool kEach = false;

  RegionBlocks() {
    void* region = mmap(nullptr, kDeviceMemoryBytes, PROT_NONE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    PLAIT_CHECK(region != MAP_FAILED);
    region_ = static_cast<char*>(region);
    struct sigaction action = {};
    action.sa_sigaction = &OnFault;
    action.sa_flags = SA_SIGINFO;
    PLAIT_CHECK(sigaction(SIGSEGV, &action, &before_) == 0);
  }

  void* Take(size_t bytes) {
    if (bytes > kDeviceMemoryBytes - used_) return nullptr;
    void* block = region_ + used_;
    used_ += bytes;
    ++num_blocks_;
    return block;
  }
  void Free(void*) {
    if (--num_blocks_ == 0) used_ = 0;
  }
  void Open(void*, size_t) {}
  void Close(void*, size_t) {}
  // What is open already stays so.
  void OpenAll() {
    if (used_ <= opened_) return;
    opened_ = (used_ + kPage - 1) / kPage * kPage;
    PLAIT_CHECK(mprotect(region_, opened_, PROT_READ | PROT_WRITE) == 0);
  }
  void CloseAll() {
    if (opened_ > 0) PLAIT_CHECK(mprotect(region_, opened_, PROT_NONE) == 0);
    opened_ = 0;
  }

 private:
  // Says what happened; then the access is tried again and meets whoever handled it before.
  static void OnFault(int, siginfo_t* info, void*) {
    const char* const at = static_cast<const char*>(info->si_addr);
    if (at >= region_ && at < region_ + kDeviceMemoryBytes) {
      constexpr char kText[] =
          "emulated device: its memory was touched on the host, outside of kernels and copies, or "
          "beyond its blocks\n";
      [[maybe_unused]] const ssize_t written = write(STDERR_FILENO, kText, sizeof(kText) - 1);
    }
    sigaction(SIGSEGV, &before_, nullptr);
    if (info->si_code <= 0) raise(SIGSEGV);  // sent, not met
  }

  static inline char* region_ = nullptr;
  static inline struct sigaction before_ = {};
  size_t used_ = 0;
  size_t opened_ = 0;  // of addresses, from the region's begin
  int num_blocks_ = 0;
};

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
using Blocks = SystemBlocks;
#else
using Blocks = RegionBlocks;
#endif

class DeviceMemory {
 public:
  static DeviceMemory& Instance() {
    static DeviceMemory& memory = *new DeviceMemory();
    return memory;
  }

  void* Allocate(size_t bytes) {
    const std::lock_guard lock(mutex_);
    const size_t size = (bytes / kAlignment + 1) * kAlignment;
    void* block = blocks_.Take(size);
    if (block == nullptr) return nullptr;
    sizes_[block] = {size, 0};
    UseLocked(block, 0);
    UseLocked(block, bytes);
    return block;
  }
  void Free(void* block) {
    const std::lock_guard lock(mutex_);
    blocks_.Open(block, At(block).all);
    blocks_.Free(block);
    sizes_.erase(block);
  }
  void Use(void* block, size_t bytes) {
    const std::lock_guard lock(mutex_);
    UseLocked(block, bytes);
  }
  void Open() {
    const std::lock_guard lock(mutex_);
    OpenLocked();
  }
  void Close() {
    const std::lock_guard lock(mutex_);
    CloseLocked();
  }

 private:
  struct Sizes {
    size_t all, used;
  };

  Sizes& At(void* block) {
    const auto at = sizes_.find(block);
    PLAIT_CHECK(at != sizes_.end());
    return at->second;
  }
  void UseLocked(void* block, size_t bytes) {
    Sizes& sizes = At(block);
    PLAIT_CHECK(bytes <= sizes.all);
    sizes.used = bytes;
    if (bytes == 0) forgotten_.insert(block);
    if (num_users_ > 0) {
      blocks_.OpenAll();
      Forget();
    }
    blocks_.Close(block, sizes.all);
    if (num_users_ > 0) blocks_.Open(block, bytes);
  }
  // Fills what nobody has written since it was taken or given back.
  void Forget() {
    for (void* block : forgotten_) {
      const auto at = sizes_.find(block);
      if (at == sizes_.end()) continue;
      blocks_.Open(block, at->second.all);
      std::memset(block, 0xff, at->second.all);
      blocks_.Close(block, at->second.all);
    }
    forgotten_.clear();
  }
  void OpenLocked() {
    if (num_users_++ > 0) return;
    blocks_.OpenAll();
    Forget();
    if (!Blocks::kEach) return;
    for (const auto& [block, sizes] : sizes_) blocks_.Open(block, sizes.used);
  }
  void CloseLocked() {
    if (--num_users_ > 0) return;
    blocks_.CloseAll();
    if (!Blocks::kEach) return;
    for (const auto& [block, sizes] : sizes_) blocks_.Close(block, sizes.all);
  }

  std::mutex mutex_;
  Blocks blocks_;
  std::map<void*, Sizes> sizes_;
  std::set<void*> forgotten_;  // to be filled before anything can touch them
  int num_users_ = 0;
};

}  // namespace

void* AllocateDeviceMemory(size_t bytes) { return DeviceMemory::Instance().Allocate(bytes); }
void FreeDeviceMemory(void* block) { DeviceMemory::Instance().Free(block); }
void UseDeviceMemory(void* block, size_t bytes) { DeviceMemory::Instance().Use(block, bytes); }

DeviceMemoryAccess::DeviceMemoryAccess() { DeviceMemory::Instance().Open(); }
DeviceMemoryAccess::~DeviceMemoryAccess() { DeviceMemory::Instance().Close(); }

}  // namespace plait::emulation
