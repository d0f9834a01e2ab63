// Where the host waits for a device in a step: no more than docs/decisions/0007-host-and-device.md
// says.
#include <gtest/gtest.h>

#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "base/status_macros.h"
#include "kernels/cuda/runtime.h"
#include "recipes/schema/recipe.pb.h"
#include "tests/support/status_matchers.h"
#include "tests/support/tiny_run.h"
#include "trainer/fresh_model.h"
#include "trainer/random_batches.h"

namespace plait {
namespace {

// The emulated device, which counts what makes the host wait.
class CountingRuntime final : public DeviceRuntime {
 public:
  struct Counts {
    int events = 0;    // that were waited for
    int streams = 0;   // likewise
    int unpinned = 0;  // copies from or to memory of the host that is not pinned
    int pinnings = 0;  // blocks that were pinned
  };

  explicit CountingRuntime(std::shared_ptr<DeviceRuntime> device) : device_(std::move(device)) {}

  std::string DeviceName() const override { return device_->DeviceName(); }
  size_t MemoryBytes() const override { return device_->MemoryBytes(); }
  absl::Status MakeCurrent() override { return device_->MakeCurrent(); }
  void* Allocate(size_t bytes) override { return Note(device_->Allocate(bytes), bytes); }
  void Free(void* block) override {
    known_.erase(block);
    device_->Free(block);
  }
  void Use(void* block, size_t bytes) override { device_->Use(block, bytes); }
  void* AllocatePinned(size_t bytes) override {
    ++counts.pinnings;
    return Note(device_->AllocatePinned(bytes), bytes);
  }
  void FreePinned(void* block) override {
    known_.erase(block);
    device_->FreePinned(block);
  }
  absl::StatusOr<StreamHandle> CreateStream(StreamPriority priority) override {
    return device_->CreateStream(priority);
  }
  absl::Status Copy(void* to, const void* from, size_t bytes, StreamHandle stream) override {
    if (!IsKnown(to) || !IsKnown(from)) ++counts.unpinned;
    return device_->Copy(to, from, bytes, stream);
  }
  absl::Status FillZero(void* to, size_t bytes, StreamHandle stream) override {
    return device_->FillZero(to, bytes, stream);
  }
  absl::StatusOr<std::shared_ptr<PendingWork>> Record(StreamHandle stream) override {
    PLAIT_ASSIGN_OR_RETURN(auto work, device_->Record(stream));
    return std::make_shared<CountedWork>(std::move(work), counts);
  }
  absl::Status WaitFor(StreamHandle stream, PendingWork& work) override {
    return device_->WaitFor(stream, work);
  }
  absl::StatusOr<std::shared_ptr<PendingWork>> RecordTime(StreamHandle stream) override {
    return device_->RecordTime(stream);
  }
  absl::StatusOr<double> SecondsBetween(PendingWork& begin, PendingWork& end) override {
    return device_->SecondsBetween(begin, end);
  }
  absl::Status Synchronize(StreamHandle stream) override {
    ++counts.streams;
    return device_->Synchronize(stream);
  }

  Counts counts;

 private:
  class CountedWork final : public PendingWork {
   public:
    CountedWork(std::shared_ptr<PendingWork> work, Counts& counts)
        : work_(std::move(work)), counts_(counts) {}
    absl::Status Wait() override {
      ++counts_.events;
      return work_->Wait();
    }
    bool Test() override { return work_->Test(); }
    PendingWork* DeviceWork() override { return work_->DeviceWork(); }

   private:
    const std::shared_ptr<PendingWork> work_;
    Counts& counts_;
  };

  void* Note(void* block, size_t bytes) {
    known_[block] = bytes;
    return block;
  }
  // Memory of the device, or pinned.
  bool IsKnown(const void* address) const {
    auto next = known_.upper_bound(address);
    if (next == known_.begin()) return false;
    const auto& [block, bytes] = *--next;
    return address < static_cast<const char*>(block) + bytes;
  }

  const std::shared_ptr<DeviceRuntime> device_;
  std::map<const void*, size_t> known_;
};

// Of the second of two equal steps.
absl::StatusOr<CountingRuntime::Counts> CountsOfAStep(const recipe::v1::Recipe& recipe) {
  cuda::AllowEmulation();
  PLAIT_ASSIGN_OR_RETURN(auto device, cuda::Runtime(0));
  const auto runtime = std::make_shared<CountingRuntime>(std::move(device));
  Execution execution({.device = {DeviceKind::kCuda, 0}, .runtime = runtime, .num_threads = 1});
  PLAIT_ASSIGN_OR_RETURN(const auto fresh, FreshModel::Create(execution, recipe));
  const std::vector<Batch> batches = RandomStep(recipe, /*stage=*/0);
  PLAIT_RETURN_IF_ERROR(fresh->step->Run(batches, 1e-3).status());
  runtime->counts = {};
  PLAIT_RETURN_IF_ERROR(fresh->step->Run(batches, 1e-3).status());
  return runtime->counts;
}

constexpr int kMicrobatches = 2;
constexpr int kExpertBlocks = 2;  // of the tiny model
constexpr int kNorm = 1;          // of all gradients

TEST(DeviceWaitsTest, ADenseModelWaitsForItsLossesAndForTheNorm) {
  ASSERT_OK_AND_ASSIGN(const auto counts,
                       CountsOfAStep(ResolvedRecipe(TinyLlamaRecipeText("unused"))));
  EXPECT_EQ(counts.events, 2 * kMicrobatches + kNorm);
  EXPECT_EQ(counts.streams, 0);
  EXPECT_EQ(counts.unpinned, 0);
  EXPECT_EQ(counts.pinnings, 0);
}

TEST(DeviceWaitsTest, AnExpertBlockWaitsOnceAndNotWhenItIsRecomputed) {
  ASSERT_OK_AND_ASSIGN(
      const auto counts,
      CountsOfAStep(ResolvedRecipe(TinyRecipeText("unused"), {"trainer.recomputation=BLOCKS"})));
  EXPECT_EQ(counts.events, (2 + kExpertBlocks) * kMicrobatches + kNorm);
  EXPECT_EQ(counts.streams, 0);
  EXPECT_EQ(counts.unpinned, 0);
}

// One wait for three tensors, and one for five.
TEST(DeviceWaitsTest, TheLossOnExpertsOutputsWaitsTwiceMore) {
  std::string text = TinyRecipeText("unused");
  const std::string loss = "activation_loss {";
  text.insert(text.find(loss) + loss.size(), " sites: [EXPERT_OUTPUT]");
  ASSERT_OK_AND_ASSIGN(const auto counts, CountsOfAStep(ResolvedRecipe(text)));
  EXPECT_EQ(counts.events, (2 + (1 + 3 + 5) * kExpertBlocks) * kMicrobatches + kNorm);
  EXPECT_EQ(counts.streams, 0);
  EXPECT_EQ(counts.unpinned, 0);
}

}  // namespace
}  // namespace plait
