// From text to a continued prompt, through the command line alone.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>

#include "base/durable_file.h"
#include "tests/support/command_line.h"
#include "tests/support/converted_checkpoint.h"
#include "tests/support/status_matchers.h"
#include "tests/support/temporary_folder.h"
#include "tests/support/tiny_run.h"

namespace plait {
namespace {

using ::testing::HasSubstr;

class TrainCommandTest : public ::testing::Test {
 protected:
  TrainCommandTest() : recipe_(data_.File("recipe.textproto")), run_(data_.File("run")) {
    std::ofstream(recipe_) << TinyRecipeText(data_.path());
  }

  CommandResult Train(std::vector<std::string> more) {
    more.insert(more.begin(), {"train", recipe_, "--output", run_});
    return RunCommand(more);
  }

  TinyData data_;
  std::string recipe_;
  std::string run_;
};

TEST_F(TrainCommandTest, TrainsStopsResumesAndGenerates) {
  const CommandResult first = Train({"--set", "debug.stop_after_steps=3", "--json"});
  ASSERT_EQ(first.exit_code, 0) << first.errors;
  EXPECT_EQ(nlohmann::json::parse(first.output)["step"], 3);
  EXPECT_GT(nlohmann::json::parse(first.output)["loss"], 0);
  const CommandResult second = Train({"--resume"});
  ASSERT_EQ(second.exit_code, 0) << second.errors;
  EXPECT_THAT(second.output, HasSubstr("finished at step 7"));
  EXPECT_THAT(second.errors, HasSubstr("bits per byte"));
  const CommandResult finished = Train({"--resume", "--json"});
  ASSERT_EQ(finished.exit_code, 0) << finished.errors;
  EXPECT_TRUE(nlohmann::json::parse(finished.output)["loss"].is_null()) << "no step was made";
  const std::string log = *ReadWholeFile(run_ + "/log.txt", 1 << 20);
  EXPECT_THAT(log, HasSubstr(first.errors));
  EXPECT_THAT(log, HasSubstr(second.errors));

  const std::vector<std::string> generate = {"generate",     run_, "--prompt", "the cat", "--json",
                                             "--max-tokens", "9",  "--seed",   "4"};
  const CommandResult drawn = RunCommand(generate);
  ASSERT_EQ(drawn.exit_code, 0) << drawn.errors;
  const auto answer = nlohmann::json::parse(drawn.output);
  EXPECT_EQ(answer["step"], 7);
  EXPECT_LE(answer["tokens"], 9);
  // The data may go: a checkpoint carries its tokenizer. The same seed draws the same text.
  std::filesystem::remove_all(data_.path());
  const CommandResult again = RunCommand(generate);
  EXPECT_EQ(nlohmann::json::parse(again.output)["text"], answer["text"]);
  const CommandResult streamed =
      RunCommand({"generate", run_, "--prompt", "the cat", "--max-tokens", "9", "--seed", "4"});
  EXPECT_EQ(streamed.output, "the cat" + std::string(answer["text"]) + "\n");
}

TEST_F(TrainCommandTest, ATokenizerJsonGoesWithTheDataAndTheCheckpoints) {
  const std::string given = data_.File("given");
  std::filesystem::create_directory(given);
  std::filesystem::copy_file("tests/data/tokenizers/jamba.json", given + "/tokenizer.json");
  std::ofstream(given + "/tokenizer_config.json") << R"({"eos_token":"<|eom|>"})";
  const std::string data = data_.File("json_data");
  const CommandResult prepared =
      RunCommand({"prepare", "--input", data_.File("text"), "--tokenizer",
                  given + "/tokenizer.json", "--output", data, "--heldout-fraction", "0.1"});
  ASSERT_EQ(prepared.exit_code, 0) << prepared.errors;
  const CommandResult trained =
      Train({"--set", "data.path=" + data, "--set", "model.vocabulary=1504"});
  ASSERT_EQ(trained.exit_code, 0) << trained.errors;
  EXPECT_THAT(trained.errors, HasSubstr("bits per byte"));
  std::filesystem::remove_all(data);
  std::filesystem::remove_all(given);
  const CommandResult drawn = RunCommand({"generate", run_, "--prompt", "the cat<|user|>", "--json",
                                          "--max-tokens", "5", "--seed", "4"});
  ASSERT_EQ(drawn.exit_code, 0) << drawn.errors;
  const auto answer = nlohmann::json::parse(drawn.output);
  // <|startoftext|>, the cat in a piece or more a word, <|user|> as one token.
  EXPECT_GE(answer["prompt_tokens"], 4);
  EXPECT_LE(answer["prompt_tokens"], 2 + 7);
}

TEST_F(TrainCommandTest, AConvertedCheckpointIsShownVerifiedAndContinuesAPrompt) {
  const std::string tokenizer = *ReadWholeFile(data_.path() + "/tokenizer.model", 1 << 20);
  const std::string converted =
      WriteConverted(data_.File("converted"), TinyRecipe(data_.path()), DType::kBf16,
                     {{"tokenizer.model", tokenizer}}, "tokenizer.model")
          .folder;
  EXPECT_EQ(RunCommand({"checkpoint", "verify", converted}).exit_code, 0);
  const CommandResult shown = RunCommand({"checkpoint", "show", converted});
  EXPECT_THAT(shown.output, HasSubstr("conversion.model_type = jamba\n"));
  EXPECT_THAT(shown.output, HasSubstr("bf16 [300, 16] parameters/model.embed_tokens.weight"));
  EXPECT_THAT(shown.output, HasSubstr("tokenizer.model, "));

  // What a recipe that trains from it begins with.
  const CommandResult own = RunCommand({"checkpoint", "show", converted, "--recipe"});
  ASSERT_OK_AND_ASSIGN(const auto model_only, ParseRecipe(own.output, "shown"));
  EXPECT_EQ(model_only.model().hidden_dim(), 24);
  EXPECT_FALSE(model_only.has_data());

  std::vector<std::string> generate = {"generate", converted,      "--prompt", "the cat",
                                       "--json",   "--max-tokens", "9",        "--greedy"};
  const CommandResult drawn = RunCommand(generate);
  ASSERT_EQ(drawn.exit_code, 0) << drawn.errors;
  EXPECT_EQ(nlohmann::json::parse(drawn.output)["tokens"], 9);
  EXPECT_FALSE(nlohmann::json::parse(drawn.output)["ended"]);

  // Any of the ids that the model folder names ends the text: here all do.
  nlohmann::json config = {{"model_type", "jamba"}, {"eos_token_id", nlohmann::json::array()}};
  for (int id = 0; id < kTinyVocabulary; ++id) config["eos_token_id"].push_back(id);
  generate[1] = WriteConverted(data_.File("ending"), TinyRecipe(data_.path()), DType::kBf16,
                               {{"tokenizer.model", tokenizer}, {"config.json", config.dump()}},
                               "tokenizer.model")
                    .folder;
  const CommandResult ended = RunCommand(generate);
  EXPECT_EQ(nlohmann::json::parse(ended.output)["tokens"], 1);
  EXPECT_TRUE(nlohmann::json::parse(ended.output)["ended"]);

  generate[1] =
      WriteConverted(data_.File("mute"), TinyRecipe(data_.path()), DType::kBf16, {}, "").folder;
  const CommandResult mute = RunCommand(generate);
  EXPECT_EQ(mute.exit_code, 3);
  EXPECT_THAT(mute.errors,
              HasSubstr("has no tokenizer: neither tokenizer.json nor tokenizer.model"));
}

TEST_F(TrainCommandTest, BadInputIsOneLineAndItsExitCode) {
  const auto expect = [](const CommandResult& result, int exit_code, const std::string& named) {
    EXPECT_EQ(result.exit_code, exit_code) << result.errors;
    EXPECT_THAT(result.errors, HasSubstr(named));
    EXPECT_EQ(std::count(result.errors.begin(), result.errors.end(), '\n'), 1) << result.errors;
  };
  expect(Train({"--set", "model.hedas=3"}), 2, "hedas");
  expect(Train({"--set", "data.path=elsewhere"}), 2, "elsewhere");
  expect(Train({"--set", "trainer.device=CUDA"}), 2, "trainer.device");
  expect(Train({"--set", "model.vocabulary=100"}), 2, "model.vocabulary = 100");
  expect(Train({"--set", "trainer.initial_checkpoint=absent"}), 3, "absent");
  EXPECT_FALSE(std::filesystem::exists(run_));
  expect(RunCommand({"train", recipe_, "--output", recipe_}), 2, recipe_);
  expect(RunCommand({"train", recipe_, "--output", ""}), 2, "--output");
  expect(RunCommand({"generate", run_, "--prompt", "a"}), 3, run_);
}

TEST_F(TrainCommandTest, DamagedDataIsFoundBeforeTheFirstStep) {
  for (const std::string file : {"train-00000.h5", "tokenizer.model", "vocabulary.h5"}) {
    const std::string path = data_.path() + "/" + file;
    std::fstream bytes(path, std::ios::in | std::ios::out | std::ios::binary);
    const std::streamoff middle = static_cast<std::streamoff>(std::filesystem::file_size(path)) / 2;
    const int byte = bytes.seekg(middle).get();
    bytes.seekp(middle).put(static_cast<char>(byte ^ 4)).flush();
    const CommandResult result = Train({});
    EXPECT_EQ(result.exit_code, 2);
    EXPECT_THAT(result.errors, HasSubstr(file + ": damaged"));
    EXPECT_FALSE(std::filesystem::exists(run_));
    bytes.seekp(middle).put(static_cast<char>(byte)).flush();
  }
}

TEST_F(TrainCommandTest, ResumeRefusesOtherModelsAndDataAndFewerSteps) {
  ASSERT_EQ(Train({"--set", "debug.stop_after_steps=3"}).exit_code, 0);
  const auto expect = [this](const std::string& change, int exit_code, const std::string& named) {
    const CommandResult result = Train({"--resume", "--set", change});
    EXPECT_EQ(result.exit_code, exit_code) << result.errors;
    EXPECT_THAT(result.errors, HasSubstr(named));
  };
  expect("model.hidden_dim=32", 3, "is of another model");
  const TinyData other(/*seed=*/2);
  expect("data.path=" + other.path(), 2, other.path());
  EXPECT_EQ(Train({}).exit_code, 2);  // without --resume: the folder holds a run
  const CommandResult fewer =
      Train({"--resume", "--set", "stages.0.steps=1", "--set", "stages.1.steps=1", "--set",
             "stages.0.schedule.warmup_steps=0"});
  EXPECT_EQ(fewer.exit_code, 2);
  EXPECT_THAT(fewer.errors, HasSubstr("ask for more steps"));
}

TEST_F(TrainCommandTest, GenerateRefusesBadOptions) {
  ASSERT_EQ(Train({"--set", "debug.stop_after_steps=1"}).exit_code, 0);
  for (const std::vector<std::string>& options : {std::vector<std::string>{"--top-p", "0"},
                                                  {"--temperature", "-1"},
                                                  {"--max-tokens", "0"},
                                                  {"--set", "model.attention.kv_heads=3"}}) {
    std::vector<std::string> command = {"generate", run_, "--prompt", "a"};
    command.insert(command.end(), options.begin(), options.end());
    EXPECT_EQ(RunCommand(command).exit_code, 2) << options[0];
  }
  const CommandResult invalid = RunCommand({"generate", run_, "--prompt", "\xff"});
  EXPECT_EQ(invalid.exit_code, 2);
  EXPECT_EQ(invalid.output, "");
  EXPECT_THAT(invalid.errors, HasSubstr("--prompt: invalid UTF-8"));
  // Another shape than the weights': a checkpoint of another model.
  EXPECT_EQ(
      RunCommand({"generate", run_, "--prompt", "a", "--set", "model.hidden_dim=32"}).exit_code, 3);
}

TEST_F(TrainCommandTest, BenchmarksAStep) {
  const CommandResult result = RunCommand(
      {"bench", "step", recipe_, "--steps", "2", "--warmup", "0", "--stage", "1", "--json"});
  ASSERT_EQ(result.exit_code, 0) << result.errors;
  const auto answer = nlohmann::json::parse(result.output);
  EXPECT_EQ(answer["stage"], "long_rows");
  EXPECT_EQ(answer["step_seconds"].size(), 2u);
  EXPECT_GT(answer["tokens_per_second"], 0);
  EXPECT_EQ(RunCommand({"bench", "step", recipe_, "--stage", "2"}).exit_code, 2);
}

TEST(BenchCommandTest, TimesEveryOperationForwardAndBackward) {
  const CommandResult result = RunCommand({"bench", "kernels", "--tokens", "64", "--seconds", "0",
                                           "--threads", "1", "--reference", "--json"});
  ASSERT_EQ(result.exit_code, 0) << result.errors;
  std::map<std::string, int> ran;
  const auto answer = nlohmann::json::parse(result.output);
  for (const auto& kernel : answer["kernels"]) {
    if (kernel["refusal"] == "") ++ran[kernel["operation"]];
  }
  for (const char* operation :
       {"matmul", "grouped_matmul", "rms_norm_forward", "rms_norm_backward",
        "gated_activation_forward", "gated_activation_backward", "causal_convolution_forward",
        "causal_convolution_backward", "selective_scan_forward", "selective_scan_backward",
        "attention_forward", "attention_backward", "token_cross_entropy", "adamw_update"}) {
    EXPECT_GE(ran[operation], 2) << operation << ": the reference and another";
  }
}

}  // namespace
}  // namespace plait
