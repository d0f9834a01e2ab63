#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "tests/support/command_line.h"

namespace plait {
namespace {

TEST(DoctorCommandTest, TellsAboutAProcessWithoutALauncher) {
  const CommandResult result = RunCommand({"doctor", "--json"});
  ASSERT_EQ(result.exit_code, 0) << result.errors;
  const auto answer = nlohmann::json::parse(result.output);
  EXPECT_EQ(answer["hosts"], 1);
  EXPECT_EQ(answer["launched_by_mpi"], false);
  ASSERT_EQ(answer["ranks"].size(), 1u);
  const auto& rank = answer["ranks"][0];
  EXPECT_GE(rank["threads"].get<int>(), 1);
  EXPECT_GE(rank["host_cores"].get<int>(), rank["cores"].get<int>());
  EXPECT_GT(rank["memory_bytes"].get<int64_t>(), rank["available_bytes"].get<int64_t>());
  EXPECT_FALSE(rank["simd_target"].get<std::string>().empty());
  EXPECT_TRUE(rank["device"].is_null());  // the emulated one is for those who ask
  EXPECT_EQ(rank["device_bytes"], 0);
  for (const char* library : {"MPI", "HDF5 1.", "oneDNN ", "Protobuf ", "GCC "}) {
    EXPECT_NE(rank["versions"].get<std::string>().find(library), std::string::npos) << library;
  }
}

TEST(DoctorCommandTest, PrintsALineARankAndItsProblems) {
  const CommandResult result = RunCommand({"doctor"});
  ASSERT_EQ(result.exit_code, 0) << result.errors;
  EXPECT_NE(result.output.find("1 rank on 1 host, without a launcher"), std::string::npos);
  EXPECT_NE(result.output.find("rank 0: "), std::string::npos);
  EXPECT_NE(result.output.find("no CUDA device: this plait was built without CUDA"),
            std::string::npos);
  EXPECT_NE(result.output.find("problem"), std::string::npos);
}

}  // namespace
}  // namespace plait
