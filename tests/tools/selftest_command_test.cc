#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "tests/support/command_line.h"

namespace plait {
namespace {

using Json = nlohmann::json;

TEST(SelftestCommandTest, ProvesLayoutsAndPacking) {
  const CommandResult result =
      RunCommand({"selftest", "--ranks", "2", "--only", "shard", "--json"});
  ASSERT_EQ(result.exit_code, 0) << result.errors;
  const Json answer = Json::parse(result.output);
  EXPECT_EQ(answer["ok"], true);
  ASSERT_GE(answer["layouts"].size(), 4u);
  for (const Json& row : answer["layouts"]) {
    EXPECT_NE(row["layout"].get<std::string>().find("shard 2"), std::string::npos);
    EXPECT_EQ(row["ranks"], 2);
    EXPECT_EQ(row["ok"], true);
    EXPECT_GT(row["seconds"].get<double>(), 0);
    EXPECT_FALSE(row["worst"]["tensor"].get<std::string>().empty());
    EXPECT_LE(row["worst"]["error"].get<double>(), row["worst"]["bound"].get<double>());
  }
  EXPECT_EQ(answer["layouts"][0]["model"], "jamba");
  EXPECT_EQ(answer["layouts"][0]["precision"], "F64");
  EXPECT_EQ(answer["layouts"][1]["precision"], "F32");
  EXPECT_EQ(answer["layouts"][2]["precision"], "BF16");
  EXPECT_EQ(answer["packing"]["ok"], true);
  ASSERT_EQ(answer["packing"]["cases"].size(), 6u);  // on one rank
  EXPECT_EQ(answer["packing"]["cases"][0]["layout"], "one rank");
  // Progress, a line a layout.
  EXPECT_NE(result.errors.find("1 of "), std::string::npos);
}

TEST(SelftestCommandTest, AWrongGradientIsExitCode70AndNamed) {
  const CommandResult result =
      RunCommand({"selftest", "--only", "replicate 2", "--ranks", "2", "--fault",
                  "model.layers.1.self_attn.o_proj.weight", "--json"});
  EXPECT_EQ(result.exit_code, 70);
  EXPECT_NE(result.errors.find("checks failed"), std::string::npos) << result.errors;
  const Json answer = Json::parse(result.output);
  EXPECT_EQ(answer["ok"], false);
  EXPECT_EQ(answer["packing"]["ok"], true);
  for (const Json& row : answer["layouts"]) {
    EXPECT_EQ(row["ok"], false);
    EXPECT_EQ(row["worst"]["tensor"], "model.layers.1.self_attn.o_proj.weight");
    EXPECT_GT(row["worst"]["error"].get<double>(), row["worst"]["bound"].get<double>());
  }
}

TEST(SelftestCommandTest, JoinedDocumentsAreExitCode70) {
  const CommandResult result =
      RunCommand({"selftest", "--only", "replicate 2", "--ranks", "2", "--fault", "packing"});
  EXPECT_EQ(result.exit_code, 70);
  EXPECT_NE(result.output.find("NOT ISOLATED"), std::string::npos) << result.output;
  EXPECT_EQ(result.output.find("NOT EQUAL"), std::string::npos) << result.output;
  EXPECT_NE(result.output.find("6 checks failed"), std::string::npos) << result.output;
}

TEST(SelftestCommandTest, ALayoutThatIsNotThereIsExitCode2) {
  const CommandResult unknown = RunCommand({"selftest", "--only", "sheard"});
  EXPECT_EQ(unknown.exit_code, 2);
  EXPECT_NE(unknown.errors.find("no layout's name has it"), std::string::npos);
  const CommandResult large = RunCommand({"selftest", "--only", "shard 4 x tensor 2"});
  EXPECT_EQ(large.exit_code, 2);
  EXPECT_NE(large.errors.find("needs more than 4 ranks"), std::string::npos) << large.errors;
  EXPECT_EQ(RunCommand({"selftest", "--ranks", "9"}).exit_code, 2);
  EXPECT_EQ(RunCommand({"selftest", "--ranks", "4", "--all"}).exit_code, 2);
}

TEST(SelftestCommandTest, HelpHasExamples) {
  const CommandResult help = RunCommand({"selftest", "--help"});
  EXPECT_EQ(help.exit_code, 0);
  EXPECT_NE(help.output.find("mpirun.sh -n 4 plait selftest"), std::string::npos);
}

}  // namespace
}  // namespace plait
