#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>

#include "base/exit_code.h"
#include "checkpoint/checkpoint_reader.h"
#include "checkpoint/checkpoint_writer.h"
#include "tests/support/checkpoint_content.h"
#include "tests/support/status_matchers.h"
#include "tests/support/temporary_folder.h"
#include "tests/support/tensor_matchers.h"

namespace plait {
namespace {

using ::testing::HasSubstr;

class CheckpointTest : public ::testing::Test {
 protected:
  CheckpointTest()
      : world_(MakeSingleRankCommunicator()),
        checkpoints_(folder_.File("run/checkpoints")),
        writer_(*world_, checkpoints_, /*keep=*/2) {}

  // The error of loading the small checkpoint into `state`, which must be of a bad checkpoint.
  std::string RefusalOf(NamedState state, UnaskedTensors unasked = UnaskedTensors::kRefuse) {
    const auto folder = writer_.Save(SmallContent(3));
    EXPECT_OK(folder);
    const auto reader = CheckpointReader::Open(*folder);
    EXPECT_OK(reader);
    const absl::Status status = reader->Load(unasked, state);
    EXPECT_EQ(ExitCodeOf(status), ExitCode::kBadCheckpoint) << status;
    return std::string(status.message());
  }

  TemporaryFolder folder_;
  std::unique_ptr<Communicator> world_;
  std::string checkpoints_;
  CheckpointWriter writer_;
};

TEST_F(CheckpointTest, RoundTripKeepsEveryBit) {
  const CheckpointContent content = SmallContent(1000);
  ASSERT_OK_AND_ASSIGN(const std::string saved, writer_.Save(content));
  EXPECT_EQ(saved, checkpoints_ + "/step-00001000");

  ASSERT_OK_AND_ASSIGN(const CheckpointReader reader, CheckpointReader::Open(saved));
  NamedState state = BlankOf(content.state);
  ASSERT_OK(reader.Load(UnaskedTensors::kRefuse, state));
  for (size_t i = 0; i < state.tensors.size(); ++i) {
    ExpectSameBits(state.tensors[i].name, state.tensors[i].shard, content.state.tensors[i].shard);
  }
  EXPECT_EQ(state.integers, content.state.integers);
  EXPECT_EQ(state.texts, content.state.texts);
  EXPECT_EQ(reader.description().step, 1000);
  EXPECT_EQ(reader.description().stage, 1);
  EXPECT_EQ(reader.description().recipe_text, content.description.recipe_text);
  EXPECT_EQ(reader.description().recipe_digest, "recipe");
  EXPECT_EQ(reader.description().model_digest, "model");
  EXPECT_EQ(reader.description().tokenizer_digest, "tokenizer");
  ASSERT_OK_AND_ASSIGN(const std::string tokenizer, reader.Attachment("tokenizer.model"));
  EXPECT_EQ(tokenizer, content.attachments.at("tokenizer.model"));
  EXPECT_OK(reader.VerifyTensors());
}

TEST_F(CheckpointTest, KeepsTheShardSpec) {
  CheckpointContent content = SmallContent(1);
  NamedTensor& tensor = content.state.tensors[0];
  tensor.spec.dim0_ranges = {{0, 10}, {20, 30}};
  tensor.spec.other_ranges = {{0, 32}};
  tensor.spec.elements = {128, 256};
  tensor.shard = UniformTensor({128}, 5, DType::kF32);
  ASSERT_OK_AND_ASSIGN(const std::string saved, writer_.Save(content));
  ASSERT_OK_AND_ASSIGN(const CheckpointReader reader, CheckpointReader::Open(saved));
  NamedState state = BlankOf(content.state);
  ASSERT_OK(reader.Load(UnaskedTensors::kRefuse, state));
  ExpectSameBits("embedding", state.tensors[0].shard, tensor.shard);
  EXPECT_EQ(reader.tensors().at(tensor.name)[0].stored->spec, tensor.spec);
  state.tensors[0].spec.elements = {0, 128};
  EXPECT_THAT(reader.Load(UnaskedTensors::kRefuse, state),
              StatusIs(absl::StatusCode::kDataLoss, HasSubstr("element 0 of its 1280 is in none")));
}

TEST_F(CheckpointTest, NamesAMissingTensor) {
  NamedState state = BlankOf(SmallContent(3).state);
  state.tensors.push_back(SmallTensor("parameters/lm_head.weight", {2, 2}, 1, DType::kF32));
  EXPECT_THAT(RefusalOf(state), HasSubstr("has no tensor parameters/lm_head.weight"));
}

TEST_F(CheckpointTest, NamesATensorNotAskedFor) {
  NamedState state = BlankOf(SmallContent(3).state);
  state.tensors.pop_back();
  EXPECT_THAT(RefusalOf(state), HasSubstr("has the tensor parameters/model.layers.0.mamba.A_log"));
}

TEST_F(CheckpointTest, NamesATensorOfAnotherShape) {
  NamedState state = BlankOf(SmallContent(3).state);
  state.tensors[1] = SmallTensor("parameters/model.norm.weight", {64}, 1, DType::kF32);
  EXPECT_THAT(RefusalOf(state),
              HasSubstr("parameters/model.norm.weight: expected shape [64], found [32]"));
}

TEST_F(CheckpointTest, NamesATensorOfAnotherDtype) {
  NamedState state = BlankOf(SmallContent(3).state);
  state.tensors[1] = SmallTensor("parameters/model.norm.weight", {32}, 1, DType::kF64);
  EXPECT_THAT(RefusalOf(state), HasSubstr("parameters/model.norm.weight: expected f64, found f32"));
}

TEST_F(CheckpointTest, NamesCountersThatDiffer) {
  NamedState more = BlankOf(SmallContent(3).state);
  more.integers["muon.steps"] = 0;
  EXPECT_THAT(RefusalOf(more), HasSubstr("has no counter 'muon.steps'"));
  NamedState fewer = BlankOf(SmallContent(3).state);
  fewer.integers.erase("adamw.steps");
  EXPECT_THAT(RefusalOf(fewer), HasSubstr("has the counter 'adamw.steps'"));
}

TEST_F(CheckpointTest, WritesNothingWhereTheStateDoesNotFit) {
  NamedState state = BlankOf(SmallContent(3).state);
  state.tensors.back().spec = ShardSpec::Whole({3, 4});
  RefusalOf(state);
  for (float value : state.tensors[0].shard.values<float>()) EXPECT_EQ(value, 0.0f);
}

TEST_F(CheckpointTest, LoadsAPartWhenAskedTo) {
  const CheckpointContent content = SmallContent(3);
  ASSERT_OK_AND_ASSIGN(const std::string saved, writer_.Save(content));
  ASSERT_OK_AND_ASSIGN(const CheckpointReader reader, CheckpointReader::Open(saved));
  NamedState state;
  state.tensors = {BlankOf(content.state).tensors[1]};
  ASSERT_OK(reader.Load(UnaskedTensors::kIgnore, state));
  ExpectSameBits("norm", state.tensors[0].shard, content.state.tensors[1].shard);
}

// Every value of 16 bits, and more than the pieces that are converted at once.
Tensor EveryHalf(DType dtype, int64_t elements) {
  Tensor tensor = Tensor::OnHost(dtype, {elements});
  for (int64_t i = 0; i < elements; ++i) {
    static_cast<uint16_t*>(tensor.raw())[i] = static_cast<uint16_t>(i + i / 65536);
  }
  return tensor;
}

TEST_F(CheckpointTest, NarrowWeightsAreWidenedExactlyWhereAsked) {
  const int64_t elements = (int64_t{9} << 20) + 3;
  CheckpointContent content = SmallContent(0);
  content.state.tensors = {
      {"bf16", EveryHalf(DType::kBf16, elements), ShardSpec::Whole({elements})},
      {"f16", EveryHalf(DType::kF16, elements), ShardSpec::Whole({elements})},
      {"f32", UniformTensor({1000}, 3, DType::kF32), ShardSpec::Whole({1000})}};
  ASSERT_OK_AND_ASSIGN(const std::string saved, writer_.Save(content));
  ASSERT_OK_AND_ASSIGN(const CheckpointReader reader, CheckpointReader::Open(saved));
  for (const DType wide : {DType::kF32, DType::kF64}) {
    for (const NamedTensor& stored : content.state.tensors) {
      SCOPED_TRACE(stored.name + std::string(" to ") + Name(wide));
      // Of the middle: not from the first element, nor to the last.
      const int64_t size = stored.shard.num_elements(), begin = size / 7, end = size - 5;
      NamedTensor wanted{stored.name, Tensor::OnHost(wide, {end - begin}), stored.spec};
      wanted.spec.elements = {begin, end};
      NamedState state;
      state.tensors = {wanted};
      if (stored.shard.dtype() != wide) {
        EXPECT_THAT(reader.Load(UnaskedTensors::kIgnore, state),
                    StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("expected f")));
      }
      ASSERT_OK(reader.Load(UnaskedTensors::kIgnore, state, StoredDTypes::kWiden));
      int64_t different = 0;
      for (int64_t i = 0; i < end - begin; ++i) {
        const int64_t from = begin + i;
        const float expected =
            stored.shard.dtype() == DType::kBf16  ? float(stored.shard.data<BFloat16>()[from])
            : stored.shard.dtype() == DType::kF16 ? float(stored.shard.data<Float16>()[from])
                                                  : stored.shard.data<float>()[from];
        const double found =
            wide == DType::kF32 ? wanted.shard.data<float>()[i] : wanted.shard.data<double>()[i];
        different += !(found == expected || (std::isnan(found) && std::isnan(expected)));
      }
      EXPECT_EQ(different, 0);
    }
  }
}

TEST_F(CheckpointTest, WideningTakesTheElementsOfABox) {
  CheckpointContent content = SmallContent(0);
  const Tensor values = UniformTensor({12 * 10}, 3, DType::kBf16);
  content.state.tensors = {{"w", values, ShardSpec::Whole({12, 10})}};
  ASSERT_OK_AND_ASSIGN(const std::string saved, writer_.Save(content));
  ASSERT_OK_AND_ASSIGN(const CheckpointReader reader, CheckpointReader::Open(saved));
  ShardSpec spec = ShardSpec::Whole({12, 10});
  spec.dim0_ranges = {{1, 3}, {7, 9}};
  spec.other_ranges = {{2, 5}};
  spec.elements = {1, 11};  // of the box's 12
  NamedState state;
  state.tensors = {{"w", Tensor::OnHost(DType::kF32, {10}), spec}};
  ASSERT_OK(reader.Load(UnaskedTensors::kIgnore, state, StoredDTypes::kWiden));
  const int64_t rows[] = {1, 2, 7, 8};
  for (int64_t i = 1; i < 11; ++i) {
    const int64_t element = rows[i / 3] * 10 + 2 + i % 3;
    EXPECT_EQ(state.tensors[0].shard.data<float>()[i - 1], float(values.data<BFloat16>()[element]));
  }
}

TEST_F(CheckpointTest, NothingIsNarrowed) {
  NamedState state = BlankOf(SmallContent(3).state);
  state.tensors[1] = SmallTensor("parameters/model.norm.weight", {32}, 1, DType::kBf16);
  ASSERT_OK_AND_ASSIGN(const std::string saved, writer_.Save(SmallContent(3)));
  ASSERT_OK_AND_ASSIGN(const CheckpointReader reader, CheckpointReader::Open(saved));
  EXPECT_THAT(reader.Load(UnaskedTensors::kRefuse, state, StoredDTypes::kWiden),
              StatusIs(absl::StatusCode::kFailedPrecondition,
                       HasSubstr("parameters/model.norm.weight: expected bf16, found f32")));
}

TEST_F(CheckpointTest, RefusesTwoTensorsOfOneName) {
  CheckpointContent content = SmallContent(3);
  content.state.tensors.push_back(content.state.tensors[0]);
  EXPECT_THAT(writer_.Save(content),
              StatusIs(absl::StatusCode::kAlreadyExists, HasSubstr("occurs twice")));
  EXPECT_THAT(OpenNewestCheckpoint(checkpoints_, nullptr),
              StatusIs(absl::StatusCode::kNotFound, HasSubstr("holds no checkpoint")));
}

TEST_F(CheckpointTest, KeepsTheNewest) {
  for (int64_t step : {1, 2, 3, 4}) ASSERT_OK(writer_.Save(SmallContent(step)));
  std::vector<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(checkpoints_)) {
    names.push_back(entry.path().filename());
  }
  EXPECT_THAT(names, ::testing::UnorderedElementsAre("step-00000003", "step-00000004"));
}

TEST_F(CheckpointTest, ReplacesOneOfTheSameStep) {
  ASSERT_OK(writer_.Save(SmallContent(3, /*seed=*/1)));
  const CheckpointContent second = SmallContent(3, /*seed=*/9);
  ASSERT_OK_AND_ASSIGN(const std::string saved, writer_.Save(second));
  ASSERT_OK_AND_ASSIGN(const CheckpointReader reader, CheckpointReader::Open(saved));
  NamedState state = BlankOf(second.state);
  ASSERT_OK(reader.Load(UnaskedTensors::kRefuse, state));
  ExpectSameBits("embedding", state.tensors[0].shard, second.state.tensors[0].shard);
}

TEST_F(CheckpointTest, OpensARunsFolderAndAFolderOfCheckpoints) {
  ASSERT_OK(writer_.Save(SmallContent(3)));
  ASSERT_OK_AND_ASSIGN(const std::string newest, writer_.Save(SmallContent(4)));
  std::vector<RejectedCheckpoint> rejected;
  for (const std::string& path : {folder_.File("run"), checkpoints_, newest}) {
    ASSERT_OK_AND_ASSIGN(const CheckpointReader reader, OpenCheckpointOrRun(path, &rejected));
    EXPECT_EQ(reader.description().step, 4);
  }
  const auto absent = OpenCheckpointOrRun(folder_.File("elsewhere"), &rejected);
  EXPECT_THAT(absent, StatusIs(absl::StatusCode::kNotFound, HasSubstr("elsewhere")));
  EXPECT_EQ(ExitCodeOf(absent.status()), ExitCode::kBadCheckpoint);
}

}  // namespace
}  // namespace plait
