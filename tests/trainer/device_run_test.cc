// Runs on devices: stopped and resumed bit for bit, on one and on several ranks, and their
// checkpoints are the CPU's, too.

#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "base/durable_file.h"
#include "base/status_macros.h"
#include "checkpoint/checkpoint_reader.h"
#include "kernels/cuda/runtime.h"
#include "parallel/local_communicator.h"
#include "parallel/nccl_communicator.h"
#include "tests/support/fake_nccl.h"
#include "tests/support/status_matchers.h"
#include "tests/support/temporary_folder.h"
#include "tests/support/tiny_run.h"
#include "trainer/plan.h"
#include "trainer/trainer.h"

namespace plait {
namespace {

using ::testing::HasSubstr;

class DeviceRunTest : public ::testing::Test {
 protected:
  absl::StatusOr<RunResult> Train(const std::string& run, bool resume,
                                  const std::vector<std::string>& overrides,
                                  std::shared_ptr<Communicator> world = nullptr) {
    std::vector<std::string> all = {"stages.0.steps=2", "stages.1.steps=1",
                                    "trainer.evaluation_tokens=128"};
    all.insert(all.end(), overrides.begin(), overrides.end());
    const int ranks = world == nullptr ? 1 : world->size();
    PLAIT_ASSIGN_OR_RETURN(
        const auto trainer,
        Trainer::Create(TinyRecipe(data_.path(), all, ranks),
                        {.output = folder_.File(run), .resume = resume, .world = world}));
    return trainer->Run();
  }

  // The same on ranks with an emulated device each.
  absl::Status TrainOnRanks(int ranks, const std::shared_ptr<FakeNccl>& nccl,
                            const std::string& run, bool resume,
                            const std::vector<std::string>& overrides) {
    return RunLocalRanks(ranks, [&](const std::shared_ptr<Communicator>& host) -> absl::Status {
      PLAIT_ASSIGN_OR_RETURN(auto runtime, cuda::Runtime(host->rank()));
      PLAIT_ASSIGN_OR_RETURN(const std::shared_ptr<Communicator> world,
                             MakeNcclCommunicator(*host, runtime, nccl));
      return Train(run, resume, overrides, world).status();
    });
  }

  // The lines of the run's steps in its metrics.
  std::vector<nlohmann::json> Steps(const std::string& run) {
    std::vector<nlohmann::json> steps;
    std::ifstream file(folder_.File(run + "/metrics.jsonl"));
    for (std::string text; std::getline(file, text);) {
      nlohmann::json line = nlohmann::json::parse(text);
      if (line["event"] == "step") steps.push_back(std::move(line));
    }
    return steps;
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

  // Of all parameters, whatever the ranks: the last that the run has written.
  std::string ParameterDigestOf(const std::string& run) {
    const auto text = ReadWholeFile(folder_.File(run) + "/metrics.jsonl", 1 << 24);
    const std::string key = "\"parameter_digest\":\"";
    const size_t at = text.ok() ? text->rfind(key) : std::string::npos;
    return at == std::string::npos ? "none" : text->substr(at + key.size(), 32);
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

// What a run says of its memory is what its plan says, in whichever stage it is the most. Copies of
// offsets, which are not planned, are 0.3 % of so small a model's 670 KB.
TEST_F(DeviceRunTest, SaysWhatItHeldAsItsPlanDoes) {
  cuda::AllowEmulation();
  ASSERT_OK(Train("run", false, {"trainer.device=CUDA"}));
  const std::vector<nlohmann::json> steps = Steps("run");
  ASSERT_EQ(steps.size(), 3u);
  ASSERT_OK_AND_ASSIGN(const Plan plan,
                       MakePlan(TinyRecipe(data_.path(), {"trainer.device=CUDA"}),
                                {.device = "H100", .libraries = DeviceLibraries::kEmulated}));
  const auto planned =
      static_cast<double>(std::max(plan.stages[0].memory.total, plan.stages[1].memory.total));
  EXPECT_NEAR(steps.back()["allocated_bytes_peak"].get<double>(), planned, 0.02 * planned);
  EXPECT_GT(steps.back()["pinned_bytes_peak"], 0);
  // What is reserved has room for gaps of a sixteenth.
  const auto reserved = steps.back()["reserved_bytes_peak"].get<double>();
  EXPECT_GE(reserved, steps.back()["allocated_bytes_peak"].get<double>());
  EXPECT_LE(reserved, 1.0625 * planned);
}

// Which is measured after the first step.
TEST_F(DeviceRunTest, TheMatricesOfTheGemmPeakAreInNoStepsMemory) {
  ASSERT_OK(Train("run", false, {"trainer.device=CPU", "trainer.log_every_steps=1"}));
  const std::vector<nlohmann::json> steps = Steps("run");
  ASSERT_EQ(steps.size(), 3u);
  EXPECT_GT(steps.back()["share_of_gemm_peak"], 0);
  EXPECT_EQ(steps[1]["allocated_bytes_peak"], steps[0]["allocated_bytes_peak"]);
  EXPECT_EQ(steps[0]["pinned_bytes_peak"], 0);
}

TEST_F(DeviceRunTest, ARunGoesOnOnTheOtherDevice) {
  cuda::AllowEmulation();
  ASSERT_OK(Train("run", false, {"trainer.device=CUDA", "debug.stop_after_steps=2"}));
  ASSERT_OK_AND_ASSIGN(const RunResult resumed, Train("run", true, {"trainer.device=CPU"}));
  ASSERT_OK_AND_ASSIGN(const RunResult whole, Train("whole", false, {"trainer.device=CPU"}));
  EXPECT_EQ(resumed.step, 3);
  EXPECT_NEAR(*resumed.loss, *whole.loss, 1e-4 * *whole.loss);
}

constexpr int kRanks = 2;

std::shared_ptr<FakeNccl> MakeFake() {
  cuda::AllowEmulation(kRanks);
  return std::make_shared<FakeNccl>(*cuda::Runtime(0));
}

TEST_F(DeviceRunTest, RanksStopAndGoOnAsOneRank) {
  const std::shared_ptr<FakeNccl> nccl = MakeFake();
  const std::vector<std::string> device = {
      "trainer.device=CUDA", "trainer.precision=BF16", "parallel.reduction=CANONICAL",
      "stages.0.tokens_per_step=128", "stages.1.tokens_per_step=128"};
  ASSERT_OK(Train("one", false, device));
  std::vector<std::string> stopping = device;
  stopping.push_back("debug.stop_after_steps=1");
  ASSERT_OK(TrainOnRanks(kRanks, nccl, "several", false, stopping));
  ASSERT_OK(TrainOnRanks(kRanks, nccl, "several", true, device));
  EXPECT_EQ(ParameterDigestOf("one").size(), 32u);
  EXPECT_EQ(ParameterDigestOf("several"), ParameterDigestOf("one"));
  EXPECT_EQ(nccl->num_misuses(), 0);
  EXPECT_EQ(nccl->num_open(), 0);
}

// Its own thread waits for the other rank's; nobody waits for ever.
TEST_F(DeviceRunTest, ARankThatGoesAwayEndsTheRun) {
  const std::shared_ptr<FakeNccl> nccl = MakeFake();
  std::jthread taker([&](const std::stop_token& stop) {
    const std::string metrics = folder_.File("broken/metrics.jsonl");
    while (!stop.stop_requested()) {
      const auto text = ReadWholeFile(metrics, 1 << 24);
      if (text.ok() && text->find("\"loss\"") != std::string::npos) {
        nccl->TakeAwayRank(kRanks - 1);
        return;
      }
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    }
  });
  EXPECT_THAT(
      TrainOnRanks(kRanks, nccl, "broken", false, {"trainer.device=CUDA", "stages.0.steps=10000"}),
      StatusIs(absl::StatusCode::kUnavailable, HasSubstr("NCCL")));
}

TEST_F(DeviceRunTest, ARankWithoutADeviceIsNamed) {
  cuda::AllowEmulation(kRanks - 1);
  EXPECT_THAT(RunLocalRanks(kRanks,
                            [&](const std::shared_ptr<Communicator>& host) {
                              return Train("none", false, {"trainer.device=CUDA"}, host).status();
                            }),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       HasSubstr("recipe trainer.device = CUDA: there is no CUDA device 1")));
}

// Said before anything is written.
TEST_F(DeviceRunTest, WithoutNcclSeveralRanksAreRefused) {
  cuda::AllowEmulation(kRanks);
  EXPECT_THAT(RunLocalRanks(kRanks,
                            [&](const std::shared_ptr<Communicator>& host) {
                              return Train("none", false, {"trainer.device=CUDA"}, host).status();
                            }),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("NCCL")));
  EXPECT_FALSE(std::filesystem::exists(folder_.File("none")));
}

}  // namespace
}  // namespace plait
