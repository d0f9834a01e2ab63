#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <ctime>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "tests/support/command_line.h"

namespace plait {
namespace {

using ::testing::HasSubstr;
using Json = nlohmann::json;

constexpr char kJamba[] = "recipes/library/jamba_1_5_large.textproto";

std::vector<std::string> PlanOfJamba(const std::string& ranks,
                                     const std::vector<std::string>& assignments) {
  std::vector<std::string> command = {"plan", kJamba, "--ranks", ranks, "--json"};
  for (const std::string& assignment : assignments) {
    command.push_back("--set");
    command.push_back(assignment);
  }
  return command;
}

TEST(PlanCommandTest, ALegalLayoutIsPlannedInUnderASecond) {
  const std::clock_t start = std::clock();
  const CommandResult result =
      RunCommand(PlanOfJamba("2048", {"parallel.expert=16", "stages.0.tokens_per_step=8388608",
                                      "stages.1.tokens_per_step=536870912"}));
  const double seconds = static_cast<double>(std::clock() - start) / CLOCKS_PER_SEC;
  ASSERT_EQ(result.exit_code, 0) << result.errors;
  EXPECT_LT(seconds, 1.0);  // of this process, whatever runs beside it
  const Json answer = Json::parse(result.output);
  EXPECT_TRUE(answer["legal"].get<bool>());
  EXPECT_EQ(answer["axes"]["shard"], 2048);
  EXPECT_EQ(answer["parameters"], 398555145696);
  const Json& stage = answer["stages"][0];
  // Masters, f32, of all parameters but the f32 ones, in 2,048 parts.
  EXPECT_NEAR(stage["memory"]["classes"]["masters"].get<double>(), 4 * 398.5e9 / 2048, 2e7);
  EXPECT_NEAR(stage["flops_per_token"].get<double>(), 563.4e9, 1e9);
  EXPECT_GT(stage["time"]["mfu"].get<double>(), 0.1);
  EXPECT_LT(stage["time"]["mfu"].get<double>(), 0.7);
}

TEST(PlanCommandTest, EveryReasonWhyNotIsNamedAtOnce) {
  const CommandResult result = RunCommand(
      PlanOfJamba("96", {"parallel.tensor=3", "parallel.expert=3", "parallel.shard=32"}));
  EXPECT_EQ(result.exit_code, 2);
  const Json answer = Json::parse(result.output);
  EXPECT_FALSE(answer["legal"].get<bool>());
  for (const char* reason :
       {"recipe parallel.tensor = 3 does not divide model.attention.heads = 64",
        "recipe parallel.tensor = 3 does not divide model.attention.kv_heads = 8",
        "recipe parallel.tensor = 3 does not divide model.vocabulary = 65536",
        "recipe parallel.expert x parallel.tensor = 9 does not divide model.experts.experts = 16",
        "recipe parallel.expert = 3 does not divide parallel.shard x parallel.context = 32"}) {
    EXPECT_THAT(result.errors, HasSubstr(reason));
  }
  EXPECT_GE(answer["problems"].size(), 5u);
}

TEST(PlanCommandTest, TheTableNamesMemoryTrafficAndTime) {
  const CommandResult result =
      RunCommand({"plan", "recipes/library/demo_pretrain.textproto", "--ranks", "2", "--device",
                  "CPU", "--set", "trainer.threads_per_rank=1"});
  ASSERT_EQ(result.exit_code, 0) << result.errors;
  for (const char* part :
       {"2 ranks of CPU: shard 2", "memory of a rank", "optimizer state", "activations by block",
        "mamba", "received by a rank in a step", "gradients", "a step should take", "MFU"}) {
    EXPECT_THAT(result.output, HasSubstr(part));
  }
}

TEST(PlanCommandTest, ADeviceThatIsNotInTheTableIsRefused) {
  const CommandResult result = RunCommand({"plan", kJamba, "--ranks", "8", "--device", "B200"});
  EXPECT_EQ(result.exit_code, 2);
}

}  // namespace
}  // namespace plait
