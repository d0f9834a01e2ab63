// main of the tests that end in _gpu_test: those of kernels/, on a CUDA device. Exit code 77, with
// the reason in one line, where there is none.
#include <gtest/gtest.h>

#include <cstdio>
#include <map>
#include <mutex>
#include <unordered_map>
#include <vector>

#include "base/allocator.h"
#include "kernels/cuda/runtime.h"

namespace plait {
namespace {

constexpr int kSkipped = 77;

// Pinned memory, which host and device reach at one address. The driver takes its time to pin, so
// blocks are kept by size and handed out again; none goes back before the process ends.
class PinnedBlocks {
 public:
  explicit PinnedBlocks(std::shared_ptr<DeviceRuntime> runtime) : runtime_(std::move(runtime)) {}

  void* Allocate(size_t bytes) {
    const std::lock_guard lock(mutex_);
    std::vector<void*>& free = free_[bytes];
    if (!free.empty()) {
      void* block = free.back();
      free.pop_back();
      return block;
    }
    void* block = runtime_->AllocatePinned(bytes);
    if (block != nullptr) sizes_.emplace(block, bytes);
    return block;
  }
  void Free(void* block) {
    const std::lock_guard lock(mutex_);
    free_[sizes_.at(block)].push_back(block);
  }

 private:
  std::mutex mutex_;
  std::shared_ptr<DeviceRuntime> runtime_;
  std::map<size_t, std::vector<void*>> free_;
  std::unordered_map<void*, size_t> sizes_;
};

PinnedBlocks* pinned_blocks = nullptr;

}  // namespace
}  // namespace plait

int main(int argc, char** argv) {
  ::testing::InitGoogleTest(&argc, argv);
  const auto runtime = plait::cuda::Runtime(0);
  if (!runtime.ok()) {
    std::printf("skipped: %s\n", std::string(runtime.status().message()).c_str());
    return plait::kSkipped;
  }
  plait::pinned_blocks = new plait::PinnedBlocks(*runtime);
  plait::SetHostMemorySource({[](size_t bytes) { return plait::pinned_blocks->Allocate(bytes); },
                              [](void* block) { plait::pinned_blocks->Free(block); }});
  std::printf("on %s\n", (*runtime)->DeviceName().c_str());
  return RUN_ALL_TESTS();
}
