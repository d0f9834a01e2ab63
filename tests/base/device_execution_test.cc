// Allocator, Tensor, Stream and Execution on a device that notes what it is asked for and whose
// memory is the host's.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/execution.h"
#include "tests/support/status_matchers.h"

namespace plait {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

struct RecordedWork : PendingWork {
  explicit RecordedWork(std::string* calls_of_runtime) : calls(calls_of_runtime) {}
  absl::Status Wait() override {
    absl::StrAppend(calls, "host waits; ");
    return absl::OkStatus();
  }
  bool Test() override { return is_done; }
  PendingWork* DeviceWork() override { return this; }
  std::string* calls;
  bool is_done = true;
};

class NotingRuntime : public DeviceRuntime {
 public:
  ~NotingRuntime() override { EXPECT_THAT(in_use, IsEmpty()); }

  std::string DeviceName() const override { return "noting"; }
  size_t MemoryBytes() const override { return limit; }
  absl::Status MakeCurrent() override { return absl::OkStatus(); }
  absl::StatusOr<std::shared_ptr<PendingWork>> RecordTime(StreamHandle stream) override {
    return Record(stream);
  }
  absl::StatusOr<double> SecondsBetween(PendingWork&, PendingWork&) override { return 0.0; }

  void* Allocate(size_t bytes) override {
    if (allocated + bytes > limit) return nullptr;
    allocated += bytes;
    void* block = std::aligned_alloc(256, (bytes + 255) / 256 * 256);
    std::memset(block, 0x7f, bytes);
    sizes[block] = bytes;
    return block;
  }
  void Free(void* block) override {
    allocated -= sizes.at(block);
    sizes.erase(block);
    std::free(block);
  }
  void Use(void* block, size_t bytes) override {
    ASSERT_LE(bytes, sizes.at(block));
    if (bytes == 0) {
      in_use.erase(block);
    } else {
      in_use[block] = bytes;
    }
  }
  void* AllocatePinned(size_t bytes) override {
    ++pinned;
    return std::aligned_alloc(64, (bytes + 63) / 64 * 64);
  }
  void FreePinned(void* block) override { std::free(block); }

  absl::StatusOr<StreamHandle> CreateStream(StreamPriority priority) override {
    priorities.push_back(priority);
    return StreamHandle{&names[priorities.size() - 1]};
  }
  absl::Status Copy(void* to, const void* from, size_t bytes, StreamHandle stream) override {
    absl::StrAppend(&calls, Name(stream), " copies ", bytes, "; ");
    if (is_behind) {
      copies.push_back([=] { std::memcpy(to, from, bytes); });
    } else {
      std::memcpy(to, from, bytes);
    }
    return failure;
  }
  absl::Status FillZero(void* to, size_t bytes, StreamHandle stream) override {
    absl::StrAppend(&calls, Name(stream), " zeroes ", bytes, "; ");
    std::memset(to, 0, bytes);
    return failure;
  }
  absl::StatusOr<std::shared_ptr<PendingWork>> Record(StreamHandle stream) override {
    absl::StrAppend(&calls, Name(stream), " records; ");
    if (!failure.ok()) return failure;
    auto work = std::make_shared<RecordedWork>(&calls);
    work->is_done = !is_behind;
    if (is_behind) copies.push_back([work] { work->is_done = true; });
    return work;
  }
  absl::Status WaitFor(StreamHandle stream, PendingWork&) override {
    absl::StrAppend(&calls, Name(stream), " waits; ");
    return failure;
  }
  absl::Status Synchronize(StreamHandle stream) override {
    absl::StrAppend(&calls, Name(stream), " is waited for; ");
    return failure;
  }

  // Does what it was given while it was behind, or the first of that.
  void CatchUp() {
    for (const auto& copy : std::exchange(copies, {})) copy();
  }
  void CatchUp(size_t count) {
    for (size_t i = 0; i < count; ++i) copies[i]();
    copies.erase(copies.begin(), copies.begin() + static_cast<ptrdiff_t>(count));
  }

  // What was called since the last time.
  std::string Calls() { return std::exchange(calls, ""); }
  std::string Name(StreamHandle stream) const {
    return stream == nullptr ? "host" : std::string(1, *static_cast<const char*>(stream));
  }

  std::string calls;
  absl::Status failure;
  bool is_behind = false;                     // copies wait for CatchUp
  std::vector<std::function<void()>> copies;  // and events
  int pinned = 0;                             // blocks ever
  size_t limit = 1 << 20;
  size_t allocated = 0;
  std::map<void*, size_t> sizes, in_use;
  std::vector<StreamPriority> priorities;
  char names[4] = {'a', 'b', 'c', 'd'};  // of streams, in the order of their making
};

class DeviceExecutionTest : public ::testing::Test {
 protected:
  DeviceExecutionTest() { runtime_->Calls(); }
  Tensor HostTensor() { return Tensor::FromValues<float>({3}, {1, 2, 3}); }

  const std::shared_ptr<NotingRuntime> runtime_ = std::make_shared<NotingRuntime>();
  Execution execution_{{.device = {DeviceKind::kCuda, 0}, .runtime = runtime_}};
};
using DeviceExecutionDeathTest = DeviceExecutionTest;

TEST_F(DeviceExecutionTest, HasThreeStreamsAndCommunicationGoesFirst) {
  EXPECT_THAT(runtime_->priorities,
              ElementsAre(StreamPriority::kNormal, StreamPriority::kHigh, StreamPriority::kNormal));
  EXPECT_EQ(runtime_->Name(execution_.compute().handle()), "a");
  EXPECT_EQ(runtime_->Name(execution_.communication().handle()), "b");
  EXPECT_EQ(runtime_->Name(execution_.copy().handle()), "c");
  EXPECT_EQ(Execution().compute().handle(), nullptr);
}

TEST_F(DeviceExecutionTest, TensorsAreTheDevicesAndSoAreViewsOfThem) {
  const Tensor tensor = execution_.Empty(DType::kF32, {4, 2});
  EXPECT_TRUE(tensor.on_device());
  EXPECT_TRUE(tensor.Slice(1, 2).on_device());
  EXPECT_TRUE(tensor.Reshape({8}).on_device());
  EXPECT_TRUE(tensor.Flat(2, {3}).on_device());
  EXPECT_FALSE(Tensor::OnHost(DType::kF32, {4}).on_device());
  EXPECT_FALSE(Execution().Empty(DType::kF32, {4}).on_device());
  EXPECT_FALSE(execution_.allocator().is_host());
}

TEST_F(DeviceExecutionTest, ToDeviceAndToHostCopyInTheOrderOfTheComputeStream) {
  ASSERT_OK_AND_ASSIGN(const Tensor there, execution_.ToDevice(HostTensor()));
  EXPECT_EQ(runtime_->Calls(), "a copies 12; a records; ");
  EXPECT_TRUE(there.on_device());
  ASSERT_OK_AND_ASSIGN(const Tensor back, execution_.ToHost(there));
  EXPECT_EQ(runtime_->Calls(), "a copies 12; a records; host waits; ");
  EXPECT_FALSE(back.on_device());
  EXPECT_EQ(back.shape(), Shape({3}));
  EXPECT_THAT(back.values<float>(), ElementsAre(1, 2, 3));
}

TEST_F(DeviceExecutionTest, WhatIsSentMayChangeBeforeTheDeviceComesToIt) {
  runtime_->is_behind = true;
  Tensor host = HostTensor();
  ASSERT_OK_AND_ASSIGN(const Tensor first, execution_.ToDevice(host));
  host.data<float>()[0] = 4;
  ASSERT_OK_AND_ASSIGN(const Tensor second, execution_.ToDevice(host));
  host.FillZero();
  EXPECT_EQ(runtime_->Calls(), "a copies 12; a records; a copies 12; a records; ");
  EXPECT_EQ(runtime_->pinned, 2);
  runtime_->CatchUp();
  const auto values = [](const Tensor& tensor) {  // this device's memory is the host's
    const auto* data = static_cast<const float*>(tensor.raw());
    return std::vector<float>(data, data + 3);
  };
  EXPECT_THAT(values(first), ElementsAre(1, 2, 3));
  EXPECT_THAT(values(second), ElementsAre(4, 2, 3));
}

TEST_F(DeviceExecutionTest, PinnedBlocksAreUsedAgainOnceTheirCopyIsDone) {
  runtime_->is_behind = true;
  ASSERT_OK(execution_.ToDevice(HostTensor()).status());
  ASSERT_OK(execution_.ToDevice(HostTensor()).status());
  runtime_->CatchUp(2);  // the first copy and its event
  ASSERT_OK(execution_.ToDevice(HostTensor()).status());
  EXPECT_EQ(runtime_->pinned, 2);
  EXPECT_EQ(execution_.pinned_bytes_peak(), 128u);
  runtime_->CatchUp(1);  // a copy whose event is still to come
  ASSERT_OK(execution_.ToDevice(HostTensor()).status());
  EXPECT_EQ(runtime_->pinned, 3);
}

TEST_F(DeviceExecutionTest, WhatIsFetchedIsWaitedForWhenItIsRead) {
  ASSERT_OK_AND_ASSIGN(const Tensor there, execution_.ToDevice(HostTensor()));
  runtime_->is_behind = true;
  runtime_->Calls();
  ASSERT_OK_AND_ASSIGN(HostCopy copy, execution_.StartToHost(there));
  EXPECT_EQ(runtime_->Calls(), "a copies 12; a records; ");
  // Another fetch that nobody waits for holds its block until the device has written it.
  ASSERT_OK(execution_.StartToHost(there).status());
  ASSERT_OK(execution_.ToDevice(HostTensor()).status());
  EXPECT_EQ(runtime_->pinned, 3);
  runtime_->Calls();
  runtime_->CatchUp();
  ASSERT_OK_AND_ASSIGN(const Tensor back, copy.Wait());
  EXPECT_EQ(runtime_->Calls(), "host waits; ");
  EXPECT_THAT(back.values<float>(), ElementsAre(1, 2, 3));
}

TEST_F(DeviceExecutionTest, LargeTensorsAreNotStaged) {
  runtime_->limit = size_t{64} << 20;
  const Tensor large = Tensor::OnHost(DType::kI32, {(4 << 20) + 1});
  ASSERT_OK_AND_ASSIGN(const Tensor there, execution_.ToDevice(large));
  ASSERT_OK_AND_ASSIGN(const Tensor back, execution_.ToHost(there));
  EXPECT_EQ(runtime_->pinned, 0);
  EXPECT_EQ(back.shape(), large.shape());
  EXPECT_EQ(execution_.pinned_bytes_peak(), 0u);
}

TEST_F(DeviceExecutionTest, CopiesGoFromDeviceToDevice) {
  ASSERT_OK_AND_ASSIGN(const Tensor from, execution_.ToDevice(HostTensor()));
  Tensor to = execution_.Empty(DType::kF32, {3});
  ASSERT_OK(execution_.Copy(from, to));
  ASSERT_OK_AND_ASSIGN(const Tensor back, execution_.ToHost(to));
  EXPECT_THAT(back.values<float>(), ElementsAre(1, 2, 3));
}

TEST_F(DeviceExecutionTest, ZerosAreWrittenByTheDevice) {
  const Tensor tensor = execution_.Zeros(DType::kF32, {5});
  EXPECT_EQ(runtime_->Calls(), "a zeroes 20; ");
  ASSERT_OK_AND_ASSIGN(const Tensor back, execution_.ToHost(tensor));
  EXPECT_THAT(back.values<float>(), ElementsAre(0, 0, 0, 0, 0));
}

TEST_F(DeviceExecutionTest, AHostTensorIsZeroedByTheHost) {
  Tensor host = HostTensor();
  ASSERT_OK(execution_.FillZero(host));
  EXPECT_EQ(runtime_->Calls(), "");
  EXPECT_THAT(host.values<float>(), ElementsAre(0, 0, 0));
}

TEST_F(DeviceExecutionTest, NothingAskedForIsNothingDone) {
  Tensor none = execution_.Zeros(DType::kF32, {0, 3});
  ASSERT_OK(execution_.Copy(none, none));
  ASSERT_OK_AND_ASSIGN(const Tensor absent, execution_.ToHost(Tensor()));
  EXPECT_FALSE(absent);
  EXPECT_EQ(runtime_->Calls(), "");
}

TEST_F(DeviceExecutionTest, OnTheCpuBothWaysAreTheTensorItself) {
  Execution cpu;
  const Tensor host = HostTensor();
  ASSERT_OK_AND_ASSIGN(const Tensor same, cpu.ToDevice(host));
  EXPECT_EQ(same.raw(), host.raw());
  ASSERT_OK_AND_ASSIGN(const Tensor again, cpu.ToHost(host));
  EXPECT_EQ(again.raw(), host.raw());
}

TEST_F(DeviceExecutionTest, ErrorsOfTheDeviceAreReturned) {
  ASSERT_OK_AND_ASSIGN(Tensor there, execution_.ToDevice(HostTensor()));
  runtime_->failure = absl::InternalError("the device is gone");
  const auto is_gone = StatusIs(absl::StatusCode::kInternal, HasSubstr("the device is gone"));
  EXPECT_THAT(execution_.ToDevice(HostTensor()), is_gone);
  EXPECT_THAT(execution_.ToHost(there), is_gone);
  EXPECT_THAT(execution_.FillZero(there), is_gone);
  EXPECT_THAT(execution_.compute().Synchronize(), is_gone);
  EXPECT_THAT(execution_.compute().Record().Synchronize(), is_gone);
}

TEST_F(DeviceExecutionTest, AStreamWaitsForAnotherWithoutTheHost) {
  const Event event = execution_.compute().Record();
  ASSERT_OK(execution_.communication().Wait(event));
  EXPECT_EQ(runtime_->Calls(), "a records; b waits; ");
  ASSERT_OK(event.Synchronize());
  EXPECT_EQ(runtime_->Calls(), "host waits; ");
}

TEST_F(DeviceExecutionTest, AHostsStreamWaitsForTheDeviceOnTheHost) {
  Execution cpu;
  ASSERT_OK(cpu.compute().Wait(execution_.compute().Record()));
  EXPECT_EQ(runtime_->Calls(), "a records; host waits; ");
}

TEST_F(DeviceExecutionTest, ADevicesStreamWaitsOnTheHostForWhatIsOnNoDevice) {
  struct HostWork : PendingWork {
    absl::Status Wait() override {
      ++waits;
      return absl::AbortedError("stopped");
    }
    bool Test() override { return true; }
    int waits = 0;
  };
  const auto work = std::make_shared<HostWork>();
  EXPECT_THAT(execution_.compute().Wait(Event(work)),
              StatusIs(absl::StatusCode::kAborted, "stopped"));
  EXPECT_EQ(work->waits, 1);
  EXPECT_EQ(runtime_->Calls(), "");
  ASSERT_OK(execution_.compute().Wait(Event()));
  EXPECT_EQ(runtime_->Calls(), "");
}

TEST_F(DeviceExecutionTest, BlocksAreKeptAndTheDeviceKnowsWhichAreInUse) {
  const void* first = nullptr;
  {
    const Tensor tensor = execution_.Empty(DType::kF32, {1000});
    first = tensor.raw();
    ASSERT_EQ(runtime_->in_use.size(), 1u);
    EXPECT_EQ(runtime_->in_use.begin()->second, 4000u);
  }
  EXPECT_THAT(runtime_->in_use, IsEmpty());
  EXPECT_EQ(runtime_->sizes.size(), 1u);
  const Tensor narrower = execution_.Empty(DType::kF32, {990});
  EXPECT_EQ(narrower.raw(), first);
  EXPECT_EQ(runtime_->in_use.begin()->second, 3960u);
  execution_.allocator().Trim();
  EXPECT_EQ(runtime_->sizes.size(), 1u);
}

TEST_F(DeviceExecutionTest, WhatIsKeptIsGivenBackBeforeMemoryIsCalledShort) {
  for (const int64_t bytes : {600 << 10, 700 << 10, 900 << 10}) {
    EXPECT_TRUE(execution_.Empty(DType::kI32, {bytes / 4}));
    EXPECT_EQ(runtime_->sizes.size(), 1u);
  }
}

// In blocks of 256 bytes and more.
TEST_F(DeviceExecutionTest, ReservedMemoryIsTakenAtOnceAndTensorsArePartsOfIt) {
  Allocator& allocator = execution_.allocator();
  EXPECT_EQ(allocator.reserved_bytes(), 0u);
  EXPECT_EQ(allocator.reserved_bytes_needed(), 0u);
  const Tensor before = execution_.Empty(DType::kF32, {64});
  ASSERT_TRUE(allocator.Reserve(4096));
  EXPECT_EQ(allocator.reserved_bytes(), 4096u);
  const size_t blocks = runtime_->sizes.size();
  {
    const Tensor a = execution_.Empty(DType::kF32, {256}), b = execution_.Empty(DType::kF32, {8});
    EXPECT_EQ(static_cast<const char*>(b.raw()) - static_cast<const char*>(a.raw()), 1024);
    EXPECT_EQ(allocator.reserved_bytes_needed(), 1280u);
    EXPECT_EQ(allocator.bytes_in_use(), 256u + 1024 + 64);
  }
  // The room of both is one again.
  const Tensor c = execution_.Empty(DType::kF32, {320});
  EXPECT_EQ(allocator.reserved_bytes_needed(), 1280u);
  EXPECT_EQ(runtime_->sizes.size(), blocks);
}

TEST_F(DeviceExecutionTest, WhatReservedMemoryHasNoRoomForIsTakenBesideIt) {
  Allocator& allocator = execution_.allocator();
  ASSERT_TRUE(allocator.Reserve(1024));
  const size_t blocks = runtime_->sizes.size();
  const Tensor a = execution_.Empty(DType::kF32, {192});
  {
    const Tensor b = execution_.Empty(DType::kF32, {256});
    EXPECT_EQ(runtime_->sizes.size(), blocks + 1);
    EXPECT_EQ(allocator.reserved_bytes_needed(), 768u + 1024);
  }
  const Tensor c = execution_.Empty(DType::kF32, {256});  // the same block again
  EXPECT_EQ(runtime_->sizes.size(), blocks + 1);
  EXPECT_EQ(allocator.reserved_bytes_needed(), 768u + 1024);
}

TEST_F(DeviceExecutionTest, MemoryThatTheDeviceHasNotIsNotReserved) {
  EXPECT_FALSE(execution_.allocator().Reserve(runtime_->limit + 1));
  EXPECT_EQ(execution_.allocator().reserved_bytes(), 0u);
  EXPECT_EQ(execution_.Empty(DType::kF32, {8}).num_elements(), 8);
}

TEST_F(DeviceExecutionDeathTest, MemoryThatTheDeviceHasNotEndsTheProcess) {
  const Tensor kept = execution_.Empty(DType::kI32, {128 << 10});
  EXPECT_EXIT(execution_.Empty(DType::kI32, {256 << 10}), ::testing::ExitedWithCode(75),
              "out of memory: asked the system for 1048576 bytes while holding 524288");
}

TEST_F(DeviceExecutionDeathTest, TheHostCannotReadOrWriteADevicesTensor) {
  Tensor there = execution_.Zeros(DType::kF32, {3});
  const Tensor& read = there;
  EXPECT_DEATH((void)there.values<float>(), "on_device_");
  EXPECT_DEATH((void)read.values<float>(), "on_device_");
  EXPECT_DEATH((void)there.Clone(), "on_device_");
  EXPECT_DEATH((void)there.Converted(DType::kF64), "on_device_");
  EXPECT_DEATH(there.FillZero(), "on_device_");
  EXPECT_DEATH(Tensor::Zeros(execution_.allocator(), DType::kF32, {3}), "on_device_");
}

TEST_F(DeviceExecutionDeathTest, CopiesAreOfAsManyBytes) {
  Tensor there = execution_.Zeros(DType::kF32, {3}), more = execution_.Zeros(DType::kF32, {4});
  EXPECT_DEATH((void)execution_.Copy(there, more), "from.bytes\\(\\)");
}

TEST_F(DeviceExecutionDeathTest, ADeviceComesWithItsRuntimeAndTheCpuWithout) {
  EXPECT_DEATH(Execution({.device = {DeviceKind::kCuda, 0}}), "runtime_");
  EXPECT_DEATH(Execution({.runtime = runtime_}), "runtime_");
}

}  // namespace
}  // namespace plait
