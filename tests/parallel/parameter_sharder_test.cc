#include "parallel/parameter_sharder.h"

#include <cstdint>

#include "tests/support/status_matchers.h"

namespace plait {
namespace {

using ::testing::HasSubstr;

class ParameterSharderTest : public ::testing::Test {
 protected:
  ParameterSharderTest()
      : mesh_(*DeviceMesh::Create({1, 1, 0, 1, 1, 1}, MakeSingleRankCommunicator())) {}

  absl::StatusOr<std::unique_ptr<ParameterSharder>> Create() {
    return ParameterSharder::Create(execution_, mesh_,
                                    {{"mixer", {&weight_, &a_log_, &norm_}}, {"head", {&head_}}});
  }

  Execution execution_;
  DeviceMesh mesh_;
  Parameter weight_{"weight", {3, 5}, DType::kBf16, {}, {}};
  Parameter a_log_{"A_log", {3}, DType::kF32, {}, {}};
  Parameter norm_{"norm", {7}, DType::kBf16, {}, {}};
  Parameter head_{"head", {2, 2}, DType::kF64, {}, {}};
};

TEST_F(ParameterSharderTest, GivesValuesGradientsAndMasters) {
  ASSERT_OK_AND_ASSIGN(auto sharder, Create());
  EXPECT_EQ(sharder->num_units(), 2);
  EXPECT_EQ(sharder->num_parameters(), 15 + 3 + 7 + 4);
  EXPECT_EQ(weight_.value.dtype(), DType::kBf16);
  EXPECT_EQ(weight_.value.shape(), Shape({3, 5}));
  EXPECT_EQ(weight_.gradient.dtype(), DType::kF32);
  EXPECT_EQ(head_.gradient.dtype(), DType::kF64);
  ASSERT_EQ(sharder->sharded().size(), 4u);
  EXPECT_EQ(sharder->sharded()[1].name, "A_log");  // the order of the unit, not of the sections
  EXPECT_EQ(sharder->sharded()[0].master.dtype(), DType::kF32);
  EXPECT_EQ(sharder->sharded()[3].master.dtype(), DType::kF64);
  EXPECT_TRUE(sharder->sharded()[0].spec.is_whole());
}

TEST_F(ParameterSharderTest, ViewsShareOneSectionPerDtypeAndAreAligned) {
  ASSERT_OK_AND_ASSIGN(auto sharder, Create());
  const auto address = [](const Tensor& tensor) {
    return reinterpret_cast<uintptr_t>(tensor.raw());
  };
  // 15 bf16 elements are padded to 16: norm follows weight in the same allocation.
  EXPECT_EQ(address(norm_.value), address(weight_.value) + 32);
  EXPECT_EQ(address(norm_.gradient), address(weight_.gradient) + 64);
  for (const ShardedParameter& parameter : sharder->sharded()) {
    EXPECT_EQ(address(parameter.master) % 16, 0u) << parameter.name;
    EXPECT_EQ(address(parameter.gradient) % 16, 0u) << parameter.name;
    EXPECT_EQ(address(parameter.compute) % 16, 0u) << parameter.name;
  }
}

TEST_F(ParameterSharderTest, ComputeSharesStorageWithTheMasterWhereDtypesAreEqual) {
  ASSERT_OK_AND_ASSIGN(auto sharder, Create());
  EXPECT_EQ(sharder->sharded()[1].compute.raw(), sharder->sharded()[1].master.raw());
  EXPECT_EQ(sharder->sharded()[3].compute.raw(), head_.value.raw());
  EXPECT_NE(sharder->sharded()[0].compute.raw(), sharder->sharded()[0].master.raw());
  EXPECT_EQ(sharder->sharded()[0].compute.raw(), weight_.value.raw());
  EXPECT_EQ(sharder->sharded()[0].gradient.raw(), weight_.gradient.raw());
}

TEST_F(ParameterSharderTest, RefreshRoundsMastersToTheComputeDtype) {
  ASSERT_OK_AND_ASSIGN(auto sharder, Create());
  sharder->sharded()[0].master.data<float>()[4] = 1.00390625f;  // 1 + 2^-8: a tie, to even
  sharder->sharded()[1].master.data<float>()[2] = 0.1f;
  sharder->RefreshComputeValues();
  EXPECT_EQ(static_cast<float>(weight_.value.data<BFloat16>()[4]), 1.0f);
  EXPECT_EQ(a_log_.value.data<float>()[2], 0.1f);
}

TEST_F(ParameterSharderTest, ZeroGradientsClearsWhatLayersAdded) {
  ASSERT_OK_AND_ASSIGN(auto sharder, Create());
  EXPECT_EQ(weight_.gradient.data<float>()[14], 0.0f);
  weight_.gradient.data<float>()[14] = 3;
  EXPECT_EQ(sharder->sharded()[0].gradient.data<float>()[14], 3.0f);
  sharder->ZeroGradients();
  EXPECT_EQ(weight_.gradient.data<float>()[14], 0.0f);
}

TEST_F(ParameterSharderTest, StateNamesTheMasters) {
  ASSERT_OK_AND_ASSIGN(auto sharder, Create());
  NamedState state;
  sharder->AppendState(state);
  ASSERT_EQ(state.tensors.size(), 4u);
  EXPECT_EQ(state.tensors[0].name, "parameters/weight");
  EXPECT_EQ(state.tensors[0].shard.raw(), sharder->sharded()[0].master.raw());
  EXPECT_EQ(state.tensors[0].spec.logical_shape, Shape({3, 5}));
}

TEST_F(ParameterSharderTest, TheFourVerbsAndTheirBoundsSucceedOnOneRank) {
  ASSERT_OK_AND_ASSIGN(auto sharder, Create());
  EXPECT_OK(sharder->Unshard(execution_, 0));
  EXPECT_OK(sharder->Prefetch(execution_, -1));
  EXPECT_OK(sharder->Prefetch(execution_, 2));
  EXPECT_OK(sharder->ReduceGradients(execution_, 1));
  EXPECT_OK(sharder->Reshard(execution_, 1));
  EXPECT_OK(sharder->FinishGradients(execution_));
}

TEST_F(ParameterSharderTest, RejectsANameThatOccursTwice) {
  EXPECT_THAT(ParameterSharder::Create(execution_, mesh_, {{"a", {&weight_}}, {"b", {&weight_}}}),
              StatusIs(absl::StatusCode::kAlreadyExists,
                       HasSubstr("weight: the name occurs twice, again in unit b")));
}

TEST_F(ParameterSharderTest, RejectsAnIntegerParameter) {
  weight_.dtype = DType::kI32;
  EXPECT_THAT(Create(), StatusIs(absl::StatusCode::kInvalidArgument,
                                 HasSubstr("weight: expected dtype bf16, f32 or f64, got i32")));
}

}  // namespace
}  // namespace plait
