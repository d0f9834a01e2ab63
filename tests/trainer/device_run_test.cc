// Runs on a device: stopped and resumed bit for bit, and their checkpoints are the CPU's, too.

#include <gtest/gtest.h>

#include <map>
#include <string>
#include <vector>

#include "checkpoint/checkpoint_reader.h"
#include "kernels/cuda/runtime.h"
#include "tests/support/status_matchers.h"
#include "tests/support/temporary_folder.h"
#include "tests/support/tiny_run.h"
#include "trainer/trainer.h"

namespace plait {
namespace {

using ::testing::HasSubstr;

class DeviceRunTest : public ::testing::Test {
 protected:
  absl::StatusOr<RunResult> Train(const std::string& run, bool resume,
                                  std::vector<std::string> overrides) {
    overrides.push_back("stages.0.steps=2");
    overrides.push_back("stages.1.steps=1");
    overrides.push_back("trainer.evaluation_tokens=128");
    auto trainer = Trainer::Create(TinyRecipe(data_.path(), overrides),
                                   {.output = folder_.File(run), .resume = resume});
    if (!trainer.ok()) return trainer.status();
    return (*trainer)->Run();
  }

  // Digest of every tensor of the run's newest checkpoint.
  std::map<std::string, std::string> Digests(const std::string& run) {
    std::vector<RejectedCheckpoint> rejected;
    const auto reader = OpenCheckpointOrRun(folder_.File(run), &rejected);
    EXPECT_OK(reader);
    std::map<std::string, std::string> digests;
    for (const auto& [name, parts] : reader->tensors()) digests[name] = parts[0].stored->digest;
    return digests;
  }

  TinyData data_;
  TemporaryFolder folder_;
};

TEST_F(DeviceRunTest, StoppedAndResumedEqualsNeverStopped) {
  cuda::AllowEmulation();
  const std::vector<std::string> device = {"trainer.device=CUDA", "trainer.precision=BF16"};
  ASSERT_OK(Train("whole", false, device));
  std::vector<std::string> stopping = device;
  stopping.push_back("debug.stop_after_steps=1");
  ASSERT_OK(Train("stopped", false, stopping));
  ASSERT_OK(Train("stopped", true, device));
  EXPECT_EQ(Digests("stopped"), Digests("whole"));
}

TEST_F(DeviceRunTest, ARunGoesOnOnTheOtherDevice) {
  cuda::AllowEmulation();
  ASSERT_OK(Train("run", false, {"trainer.device=CUDA", "debug.stop_after_steps=2"}));
  ASSERT_OK_AND_ASSIGN(const RunResult resumed, Train("run", true, {"trainer.device=CPU"}));
  ASSERT_OK_AND_ASSIGN(const RunResult whole, Train("whole", false, {"trainer.device=CPU"}));
  EXPECT_EQ(resumed.step, 3);
  EXPECT_NEAR(resumed.loss, whole.loss, 1e-4 * whole.loss);
}

}  // namespace
}  // namespace plait
