#include "trainer/tensorboard_writer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <map>

#include "base/durable_file.h"
#include "tests/support/status_matchers.h"
#include "tests/support/temporary_folder.h"
#include "trainer/event.pb.h"

namespace plait {
namespace {

using Message = event::v1::Event;  // not the Event of a stream
using event::v1::SessionLog;
using ::testing::HasSubstr;

// CRC-32C by long division, bit by bit: apart from what the writer uses.
uint32_t SlowCrc(const std::string& bytes) {
  uint32_t remainder = ~0u;
  for (const unsigned char byte : bytes) {
    remainder ^= byte;
    for (int bit = 0; bit < 8; ++bit)
      remainder = (remainder & 1) != 0 ? (remainder >> 1) ^ 0x82f63b78u : remainder >> 1;
  }
  return ~remainder;
}

uint32_t Unmasked(uint32_t masked) {
  const uint32_t rotated = masked - 0xa282ead8u;
  return (rotated >> 17) | (rotated << 15);
}

// The records of a file, each with both checksums right.
std::vector<Message> Events(const std::string& path) {
  const auto text = ReadWholeFile(path, 1 << 20);
  EXPECT_OK(text);
  std::vector<Message> events;
  size_t at = 0;
  const auto take = [&](size_t size) {
    EXPECT_LE(at + size, text->size());
    at += size;
    return text->substr(at - size, size);
  };
  const auto take_crc = [&] {
    uint32_t masked = 0;
    std::memcpy(&masked, take(4).data(), 4);
    return Unmasked(masked);
  };
  while (at < text->size() && !::testing::Test::HasFailure()) {
    const std::string length_bytes = take(8);
    uint64_t length = 0;
    std::memcpy(&length, length_bytes.data(), 8);
    EXPECT_EQ(take_crc(), SlowCrc(length_bytes));
    const std::string data = take(length);
    EXPECT_EQ(take_crc(), SlowCrc(data));
    EXPECT_TRUE(events.emplace_back().ParseFromString(data));
  }
  return events;
}

std::map<std::string, float> Scalars(const Message& event) {
  std::map<std::string, float> scalars;
  for (const auto& value : event.summary().value()) scalars[value.tag()] = value.simple_value();
  return scalars;
}

class TensorBoardWriterTest : public ::testing::Test {
 protected:
  TemporaryFolder folder_;
};

TEST_F(TensorBoardWriterTest, AFileBeginsWithItsVersionAndTheStart) {
  ASSERT_OK_AND_ASSIGN(const TensorBoardWriter writer,
                       TensorBoardWriter::Open(folder_.File("run/tensorboard"), 0));
  EXPECT_THAT(writer.path(), HasSubstr("/run/tensorboard/events.out.tfevents."));
  const std::vector<Message> events = Events(writer.path());
  ASSERT_EQ(events.size(), 2u);
  EXPECT_EQ(events[0].file_version(), "brain.Event:2");
  EXPECT_GT(events[0].wall_time(), 1.7e9);
  EXPECT_EQ(events[1].session_log().status(), SessionLog::START);
  EXPECT_EQ(events[1].step(), 0);
}

TEST_F(TensorBoardWriterTest, AStepHasItsScalars) {
  ASSERT_OK_AND_ASSIGN(TensorBoardWriter writer, TensorBoardWriter::Open(folder_.path(), 0));
  StepMetrics metrics;
  metrics.step = 3;
  metrics.result.counts.real_tokens = 100;
  metrics.result.language_model_loss = 2.5;
  metrics.result.z_loss = 0.25;
  metrics.result.gradient_norm = 0.5;
  metrics.result.watch.experts.push_back({.name = "layer",
                                          .tokens = {6, 1, 2},
                                          .square_sum = {1, 4, 1},
                                          .absolute_max = {2, 5, 3},
                                          .largest_rank_load = 1.75,
                                          .waves = 5,
                                          .recomputed_waves = 2});
  metrics.result.watch.blocks.push_back({"block", 8, 2, 7});
  metrics.learning_rate = 0.125;
  metrics.step_seconds = 0.5;
  metrics.data_wait_seconds = 0.0625;
  metrics.communication_wait_seconds = 0.03125;
  metrics.model_flops = 1e9;
  metrics.gemm_peak_flops_per_second = 8e9;
  metrics.memory_bytes = 3'000'000'000;
  metrics.device = DeviceKind::kCuda;
  metrics.allocated_bytes_peak = 5'000'000'000;
  ASSERT_OK(writer.WriteStep(metrics));
  const std::vector<Message> events = Events(writer.path());
  ASSERT_EQ(events.size(), 3u);
  EXPECT_EQ(events[2].step(), 3);
  const std::map<std::string, float> expected = {
      {"loss/total", 2.75f},
      {"loss/language_model", 2.5f},
      {"loss/balance", 0},
      {"loss/z", 0.25f},
      {"loss/activation", 0},
      {"optimizer/gradient_norm", 0.5f},
      {"optimizer/learning_rate", 0.125f},
      {"speed/tokens_per_second", 200},
      {"speed/model_flops_per_second", 2e9f},
      {"speed/share_of_gemm_peak", 0.25f},
      {"wait/data_seconds", 0.0625f},
      {"wait/communication_seconds", 0.03125f},
      {"memory_gigabytes", 3},
      {"device_memory_gigabytes", 5},
      {"activation_maximum/block", 7},
      {"activation_maximum/layer.experts", 5},
      {"expert_load/layer/busiest_rank_over_mean", 1.75f},
      {"expert_load/layer/waves", 5},
      {"expert_load/layer/recomputed_waves", 2},
      {"tokens_per_expert/layer/busiest_over_mean", 2},
      {"tokens_per_expert/layer/idlest_over_mean", static_cast<float>(1.0 / 3)}};
  EXPECT_EQ(Scalars(events[2]), expected);
}

TEST_F(TensorBoardWriterTest, AnEvaluationHasItsScalars) {
  ASSERT_OK_AND_ASSIGN(TensorBoardWriter writer, TensorBoardWriter::Open(folder_.path(), 0));
  ASSERT_OK(writer.WriteEvaluation(4, {.loss = 1.5, .bits_per_byte = 0.75}));
  const std::vector<Message> events = Events(writer.path());
  ASSERT_EQ(events.size(), 3u);
  EXPECT_EQ(events[2].step(), 4);
  const std::map<std::string, float> expected = {{"held_out/loss", 1.5f},
                                                 {"held_out/bits_per_byte", 0.75f}};
  EXPECT_EQ(Scalars(events[2]), expected);
}

// Files are read in the order of their names; START drops the values of its step and later ones.
TEST_F(TensorBoardWriterTest, AResumedRunDropsTheStepsThatAreDoneAgain) {
  std::vector<std::string> paths;
  for (const int64_t resumed : {0, 10, 20}) {
    ASSERT_OK_AND_ASSIGN(const TensorBoardWriter writer,
                         TensorBoardWriter::Open(folder_.path(), resumed));
    paths.push_back(writer.path());
  }
  EXPECT_TRUE(std::is_sorted(paths.begin(), paths.end()));
  EXPECT_EQ(std::adjacent_find(paths.begin(), paths.end()), paths.end());
  EXPECT_EQ(Events(paths[1]).at(1).session_log().status(), SessionLog::START);
  EXPECT_EQ(Events(paths[1]).at(1).step(), 11);
  EXPECT_EQ(Events(paths[2]).at(1).step(), 21);
}

TEST_F(TensorBoardWriterTest, AFolderThatCannotBeIsNamed) {
  ASSERT_OK(WriteFileDurably(folder_.File("file"), ""));
  EXPECT_THAT(TensorBoardWriter::Open(folder_.File("file/tensorboard"), 0),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("file/tensorboard")));
}

TEST_F(TensorBoardWriterTest, OneOfNoneWritesNothing) {
  TensorBoardWriter writer = TensorBoardWriter::None();
  EXPECT_OK(writer.WriteStep({}));
  EXPECT_OK(writer.WriteEvaluation(1, {}));
}

}  // namespace
}  // namespace plait
