#include <gtest/gtest.h>

#include <cstring>
#include <limits>
#include <nlohmann/json.hpp>

#include "base/digest.h"
#include "base/durable_file.h"
#include "base/foreign_hdf5_file.h"
#include "checkpoint/checkpoint_writer.h"
#include "recipes/recipe_digest.h"
#include "tests/support/command_line.h"
#include "tests/support/parity_fixture.h"
#include "tests/support/temporary_folder.h"

namespace plait {
namespace {

using ::testing::HasSubstr;

// The fixture as a converted checkpoint; returns its folder.
std::string WriteCheckpoint(const TemporaryFolder& folder, const ParityFixture& fixture) {
  ParityRuntime loaded(fixture, ParityRecipe(fixture.recipe));
  CheckpointContent content;
  content.description = {.recipe_text = RecipeText(fixture.recipe),
                         .recipe_digest = RecipeDigest(fixture.recipe),
                         .model_digest = ModelDigest(fixture.recipe)};
  loaded.runtime.sharder->AppendState(content.state);
  content.attachments = {{"config.json", ReadWholeFile(fixture.folder + "/model/config.json")}};
  const auto world = MakeSingleRankCommunicator();
  const auto saved = CheckpointWriter(*world, folder.path(), 1).Save(content);
  PLAIT_CHECK(saved.ok());
  return *saved;
}

class ParityCommandTest : public ::testing::Test {
 protected:
  ParityFixture fixture_{"tiny_jamba"};
  TemporaryFolder folder_;
  const std::string reference_ = fixture_.folder + "/reference.h5";
};

TEST_F(ParityCommandTest, PrintsTheWorstElementOfEveryTensor) {
  const CommandResult result =
      RunCommand({"parity", WriteCheckpoint(folder_, fixture_), reference_});
  EXPECT_EQ(result.exit_code, 0) << result.errors;
  EXPECT_THAT(result.output, HasSubstr("transformers 5."));
  EXPECT_THAT(result.output, HasSubstr("\nlogits "));
  EXPECT_THAT(result.output, HasSubstr("\ngreedy "));
  EXPECT_THAT(result.output,
              HasSubstr("gradients/model.layers.3.feed_forward.experts.2.up_proj.weight"));
  EXPECT_THAT(result.output, HasSubstr("the loss has 0.02 x auxiliary_loss in it"));
}

TEST_F(ParityCommandTest, AConvertedFolderAndItsWayBackComputeTheSame) {
  for (const char* name : {"tiny_jamba", "odd_jamba", "tiny_llama"}) {
    const std::string fixture = std::string("tests/parity/fixtures/") + name;
    const std::string there = folder_.File(std::string(name) + "_checkpoint");
    const std::string back = folder_.File(std::string(name) + "_model");
    const std::string again = folder_.File(std::string(name) + "_again");
    for (const auto& [source, target] :
         {std::pair(fixture + "/model", there), std::pair(there, back), std::pair(back, again)}) {
      const CommandResult converted = RunCommand({"convert", source, target});
      ASSERT_EQ(converted.exit_code, 0) << converted.errors;
    }
    for (const std::string& checkpoint : {there, again}) {
      const CommandResult result =
          RunCommand({"parity", checkpoint, fixture + "/reference.h5", "--json"});
      EXPECT_EQ(result.exit_code, 0) << result.errors;
      EXPECT_TRUE(nlohmann::json::parse(result.output).at("without_gradient").empty());
    }
  }
}

TEST_F(ParityCommandTest, AnswersInJson) {
  const CommandResult result =
      RunCommand({"parity", WriteCheckpoint(folder_, fixture_), reference_, "--json"});
  EXPECT_EQ(result.exit_code, 0) << result.errors;
  const auto answer = nlohmann::json::parse(result.output);
  EXPECT_TRUE(answer.at("passed"));
  EXPECT_TRUE(answer.at("without_gradient").empty());
  EXPECT_EQ(answer.at("tensors").at(0).at("name"), "logits");
  EXPECT_NEAR(answer.at("tensors").at(0).at("tolerance"), 1e-4, 1e-5);
  EXPECT_EQ(answer.at("tensors").at(0).at("index").size(), 3);
}

TEST_F(ParityCommandTest, ADifferencePastItsToleranceIsABadCheckpoint) {
  Tensor& weight = fixture_.tensors.at("model.layers.2.self_attn.o_proj.weight");
  weight.data<float>()[5] += 0.05f;
  const CommandResult result =
      RunCommand({"parity", WriteCheckpoint(folder_, fixture_), reference_});
  EXPECT_EQ(result.exit_code, 3);
  EXPECT_THAT(result.output, HasSubstr("FAILED"));
  EXPECT_THAT(result.errors, HasSubstr("differ from the reference by more than their tolerance"));
}

TEST_F(ParityCommandTest, TolerancesOfTheCommandLineGoBeforeTheFiles) {
  const std::string checkpoint = WriteCheckpoint(folder_, fixture_);
  EXPECT_EQ(RunCommand({"parity", checkpoint, reference_, "--tolerance-logits", "1e-9"}).exit_code,
            3);
  EXPECT_EQ(
      RunCommand({"parity", checkpoint, reference_, "--tolerance-gradients", "1e-9"}).exit_code, 3);
  EXPECT_EQ(RunCommand({"parity", checkpoint, reference_, "--tolerance-loss", "1e-12"}).exit_code,
            3);
}

TEST_F(ParityCommandTest, WhatIsNotFiniteIsNoMeasure) {
  const std::string checkpoint = WriteCheckpoint(folder_, fixture_);
  for (const char* tolerance : {"nan", "inf", "-1"}) {
    const CommandResult result =
        RunCommand({"parity", checkpoint, reference_, "--tolerance-loss", tolerance});
    EXPECT_EQ(result.exit_code, 2) << tolerance;
    EXPECT_THAT(result.errors, HasSubstr("tolerance_loss: expected 0 or more"));
  }
  // One logit of the reference is infinite: so would be the bound that goes with their size.
  ASSERT_OK_AND_ASSIGN(const ForeignHdf5File file, ForeignHdf5File::Open(reference_));
  ASSERT_OK_AND_ASSIGN(const Tensor logits, file.Read("logits", DType::kF32));
  std::string bytes = ReadWholeFile(reference_);
  const size_t place = bytes.find(std::string(static_cast<const char*>(logits.raw()), 32));
  ASSERT_NE(place, std::string::npos);
  const float infinity = std::numeric_limits<float>::infinity();
  std::memcpy(bytes.data() + place, &infinity, sizeof(infinity));
  const std::string damaged = folder_.File("infinite.h5");
  ASSERT_OK(WriteFileDurably(damaged, bytes));
  const CommandResult result = RunCommand({"parity", checkpoint, damaged});
  EXPECT_EQ(result.exit_code, 2);
  EXPECT_THAT(result.errors, HasSubstr("infinite.h5: logits: not all are finite"));
}

TEST_F(ParityCommandTest, NamesWhatTheReferenceLacksOrHasOfAnotherModel) {
  const std::string checkpoint = WriteCheckpoint(folder_, fixture_);
  CommandResult result = RunCommand({"parity", checkpoint, folder_.File("absent.h5")});
  EXPECT_EQ(result.exit_code, 2);
  EXPECT_THAT(result.errors, HasSubstr("absent.h5: no such file"));
  result = RunCommand({"parity", checkpoint, "tests/parity/fixtures/tiny_llama/reference.h5"});
  EXPECT_EQ(result.exit_code, 2);
  EXPECT_THAT(result.errors, HasSubstr("logits: expected [3, 19, 83] of the model, found"));
  result = RunCommand({"parity", checkpoint, "tests/base/fixtures/foreign.h5"});
  EXPECT_EQ(result.exit_code, 2);
  EXPECT_THAT(result.errors, HasSubstr("foreign.h5: no dataset input_ids"));
}

}  // namespace
}  // namespace plait
