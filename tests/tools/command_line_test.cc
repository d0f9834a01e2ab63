#include "tests/support/command_line.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "parallel/local_communicator.h"
#include "tests/support/checkpoint_content.h"
#include "tests/support/status_matchers.h"
#include "tests/support/temporary_folder.h"

namespace plait {
namespace {

using ::testing::HasSubstr;

constexpr char kRecipe[] = "recipes/library/demo_pretrain.textproto";

void WriteCheckpoint(const std::string& folder, int64_t step) {
  const auto world = MakeSingleRankCommunicator();
  CheckpointWriter writer(*world, folder, /*keep=*/3);
  ASSERT_OK(writer.Save(SmallContent(step)));
}

TEST(CommandLineTest, EveryCommandHasHelpWithAnExample) {
  const std::vector<std::vector<std::string>> commands = {
      {},
      {"recipe"},
      {"recipe", "show"},
      {"recipe", "validate"},
      {"checkpoint"},
      {"checkpoint", "list"},
      {"checkpoint", "verify"},
      {"checkpoint", "show"},
      {"prepare"},
      {"train"},
      {"generate"},
      {"tokenize"},
      {"plan"},
      {"bench"},
      {"bench", "step"},
      {"bench", "devices"},
      {"bench", "kernels"},
      {"bench", "gemm"},
      {"bench", "tokenizer"},
  };
  for (std::vector<std::string> command : commands) {
    command.push_back("--help");
    const CommandResult result = RunCommand(command);
    EXPECT_EQ(result.exit_code, 0);
    EXPECT_THAT(result.output, HasSubstr("Example: plait ")) << command[0];
  }
}

TEST(CommandLineTest, ABadCommandLineIsOneLineAndExitCodeTwo) {
  for (const std::vector<std::string>& command : {std::vector<std::string>{},
                                                  {"nonsense"},
                                                  {"recipe", "show"},
                                                  {"recipe", "show", "--wrong"}}) {
    const CommandResult result = RunCommand(command);
    EXPECT_EQ(result.exit_code, 2);
    EXPECT_EQ(std::count(result.errors.begin(), result.errors.end(), '\n'), 1) << result.errors;
    EXPECT_THAT(result.errors, HasSubstr("plait: "));
  }
}

TEST(CommandLineTest, WithoutADeviceBenchmarksOnOneAreRefused) {
  for (const char* benchmark : {"kernels", "gemm"}) {
    const CommandResult result = RunCommand({"bench", benchmark, "--device", "CUDA"});
    EXPECT_EQ(result.exit_code, 2);
    EXPECT_THAT(result.errors, HasSubstr("built without CUDA"));
  }
  for (const std::vector<std::string>& benchmark :
       {std::vector<std::string>{"bench", "step", kRecipe, "--set", "trainer.device=CUDA"},
        {"bench", "devices", kRecipe}}) {
    const CommandResult result = RunCommand(benchmark);
    EXPECT_EQ(result.exit_code, 2);
    EXPECT_THAT(result.errors, HasSubstr("built without CUDA"));
  }
}

TEST(CommandLineTest, NamesAnUnknownCommand) {
  EXPECT_THAT(RunCommand({"trian"}).errors, HasSubstr("no command 'trian'"));
}

TEST(CommandLineTest, ShowsARecipeThatReadsBack) {
  const CommandResult first = RunCommand({"recipe", "show", kRecipe});
  ASSERT_EQ(first.exit_code, 0) << first.errors;
  EXPECT_THAT(first.output, HasSubstr("# parameters: "));
  TemporaryFolder folder;
  std::ofstream(folder.File("shown.textproto")) << first.output;
  const CommandResult second = RunCommand({"recipe", "show", folder.File("shown.textproto")});
  EXPECT_EQ(second.output, first.output);
}

TEST(CommandLineTest, ShowsARecipeAsJson) {
  const CommandResult result =
      RunCommand({"recipe", "show", "recipes/library/llama_2_7b.textproto", "--json"});
  ASSERT_EQ(result.exit_code, 0) << result.errors;
  const auto answer = nlohmann::json::parse(result.output);
  EXPECT_EQ(answer["parameters"]["total"], 6738415616);
  EXPECT_EQ(answer["recipe"]["model"]["family"], "LLAMA");
}

TEST(CommandLineTest, ReportsEveryProblemOfARecipe) {
  const std::vector<std::string> changes = {"--set", "model.attention.heads=7", "--set",
                                            "stages.0.steps=0"};
  std::vector<std::string> command = {"recipe", "validate", kRecipe};
  command.insert(command.end(), changes.begin(), changes.end());
  const CommandResult text = RunCommand(command);
  EXPECT_EQ(text.exit_code, 2);
  EXPECT_THAT(text.errors, HasSubstr("model.attention.heads = 7"));
  EXPECT_THAT(text.errors, HasSubstr("stages.0.steps = 0"));
  command.push_back("--json");
  const CommandResult json = RunCommand(command);
  EXPECT_EQ(json.exit_code, 2);
  const auto answer = nlohmann::json::parse(json.output);
  EXPECT_EQ(answer["valid"], false);
  EXPECT_GE(answer["problems"].size(), 2u);
}

TEST(CommandLineTest, AMissingRecipeIsNamed) {
  const CommandResult result = RunCommand({"recipe", "show", "elsewhere.textproto"});
  EXPECT_EQ(result.exit_code, 2);
  EXPECT_THAT(result.errors, HasSubstr("elsewhere.textproto"));
}

TEST(CommandLineTest, ListsVerifiesAndShowsCheckpoints) {
  TemporaryFolder run;
  WriteCheckpoint(run.File("checkpoints"), 7);
  WriteCheckpoint(run.File("checkpoints"), 9);
  const CommandResult list = RunCommand({"checkpoint", "list", run.path(), "--json"});
  ASSERT_EQ(list.exit_code, 0) << list.errors;
  const auto checkpoints = nlohmann::json::parse(list.output)["checkpoints"];
  ASSERT_EQ(checkpoints.size(), 2u);
  EXPECT_EQ(checkpoints[0]["step"], 9);
  EXPECT_EQ(checkpoints[0]["verified"], true);
  const CommandResult show = RunCommand({"checkpoint", "show", run.path(), "--json"});
  EXPECT_EQ(nlohmann::json::parse(show.output)["integers"]["adamw.steps"], 9);
  EXPECT_THAT(RunCommand({"checkpoint", "show", run.path()}).output, HasSubstr("[40, 32]"));
  EXPECT_EQ(RunCommand({"checkpoint", "verify", run.path()}).exit_code, 0);
}

TEST(CommandLineTest, ShowsWhichRanksHoldWhat) {
  TemporaryFolder run;
  // Each of two ranks has one half of the first tensor, and both have all of the second.
  ASSERT_OK(RunLocalRanks(2, [&](const std::shared_ptr<Communicator>& world) {
    CheckpointContent content = SmallContent(7);
    content.state.tensors.resize(2);
    NamedTensor& halved = content.state.tensors[0];
    halved.spec.elements = {640 * world->rank(), 640 * (world->rank() + 1)};
    halved.shard = halved.shard.Flat(halved.spec.elements.begin, {640});
    content.state.tensors[1].replica = world->rank();
    content.state.tensors[1].replicas = 2;
    return CheckpointWriter(*world, run.File("checkpoints"), /*keep=*/1).Save(content).status();
  }));
  const CommandResult show = RunCommand({"checkpoint", "show", run.path()});
  EXPECT_EQ(show.exit_code, 0) << show.errors;
  EXPECT_THAT(show.output, HasSubstr(", 2 ranks"));
  EXPECT_THAT(show.output, HasSubstr("f32 [40, 32] parameters/model.embed_tokens.weight"));
  EXPECT_THAT(show.output, HasSubstr("rank 1: elements 640 to 1280"));
  EXPECT_THAT(show.output, HasSubstr("rank 0: elements 0 to 16"));
  const CommandResult json = RunCommand({"checkpoint", "show", run.path(), "--json"});
  const auto tensors = nlohmann::json::parse(json.output)["tensors"];
  ASSERT_EQ(tensors.size(), 2u);
  EXPECT_EQ(tensors[0]["shape"], (std::vector<int64_t>{40, 32}));
  EXPECT_EQ(tensors[0]["shards"][1]["rank"], 1);
  EXPECT_EQ(tensors[0]["shards"][1]["elements"], (std::vector<int64_t>{640, 1280}));
  EXPECT_THAT(RunCommand({"checkpoint", "verify", run.path()}).output,
              HasSubstr("2 tensors of 2 ranks verified"));
  EXPECT_THAT(RunCommand({"checkpoint", "list", run.path()}).output,
              HasSubstr("verified, 2 ranks"));
  std::filesystem::remove(run.File("checkpoints/step-00000007/rank-00001.h5"));
  const CommandResult verify = RunCommand({"checkpoint", "verify", run.path()});
  EXPECT_EQ(verify.exit_code, 3);
  EXPECT_THAT(verify.errors, HasSubstr("rank-00001.h5"));
}

TEST(CommandLineTest, ADamagedCheckpointIsExitCodeThree) {
  TemporaryFolder run;
  WriteCheckpoint(run.File("checkpoints"), 7);
  const std::string file = run.File("checkpoints/step-00000007/rank-00000.h5");
  std::filesystem::resize_file(file, std::filesystem::file_size(file) - 1);
  const CommandResult one =
      RunCommand({"checkpoint", "verify", run.File("checkpoints/step-00000007")});
  EXPECT_EQ(one.exit_code, 3);
  EXPECT_THAT(one.errors, HasSubstr("rank-00000.h5"));
  EXPECT_EQ(RunCommand({"checkpoint", "verify", run.path()}).exit_code, 3);
  const CommandResult list = RunCommand({"checkpoint", "list", run.path()});
  EXPECT_EQ(list.exit_code, 0);
  EXPECT_THAT(list.output, HasSubstr("rank-00000.h5"));
  EXPECT_EQ(RunCommand({"checkpoint", "list", run.File("absent")}).exit_code, 3);
  // Of a run every checkpoint is read, not just the newest.
  WriteCheckpoint(run.File("checkpoints"), 8);
  const CommandResult older = RunCommand({"checkpoint", "verify", run.path()});
  EXPECT_EQ(older.exit_code, 3);
  EXPECT_THAT(older.errors, HasSubstr("step-00000007/rank-00000.h5"));
  EXPECT_EQ(RunCommand({"checkpoint", "verify", run.File("checkpoints/step-00000008")}).exit_code,
            0);
}

TEST(CommandLineTest, ACheckpointOfAnotherStepThanItsNameIsRefused) {
  TemporaryFolder run;
  WriteCheckpoint(run.File("checkpoints"), 7);
  std::filesystem::rename(run.File("checkpoints/step-00000007"),
                          run.File("checkpoints/step-00000099"));
  const CommandResult verify = RunCommand({"checkpoint", "verify", run.path()});
  EXPECT_EQ(verify.exit_code, 3);
  EXPECT_THAT(verify.errors, HasSubstr("step-00000099: holds step 7; call it step-00000007"));
  std::filesystem::rename(run.File("checkpoints/step-00000099"), run.File("best"));
  EXPECT_EQ(RunCommand({"checkpoint", "verify", run.File("best")}).exit_code, 0);
}

}  // namespace
}  // namespace plait
