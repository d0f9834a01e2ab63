#include "parallel/parameter_sharder.h"

#include <cstdint>
#include <map>
#include <tuple>

#include "base/status_macros.h"
#include "parallel/local_communicator.h"
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
  Parameter head_{"head", {2, 2}, DType::kF32, {}, {}};
};

TEST_F(ParameterSharderTest, GivesValuesGradientsAndMasters) {
  ASSERT_OK_AND_ASSIGN(auto sharder, Create());
  EXPECT_EQ(sharder->num_units(), 2);
  EXPECT_EQ(sharder->num_parameters(), 15 + 3 + 7 + 4);
  EXPECT_EQ(weight_.value.dtype(), DType::kBf16);
  EXPECT_EQ(weight_.value.shape(), Shape({3, 5}));
  EXPECT_EQ(weight_.gradient.dtype(), DType::kF32);
  ASSERT_EQ(sharder->sharded().size(), 4u);
  EXPECT_EQ(sharder->sharded()[1].name, "A_log");  // the order of the unit, not of the sections
  EXPECT_EQ(sharder->sharded()[0].master.dtype(), DType::kF32);
  EXPECT_TRUE(sharder->sharded()[0].spec.is_whole());
}

TEST_F(ParameterSharderTest, UnitsOfOtherStagesAreNamedAndHoldNothing) {
  ASSERT_OK_AND_ASSIGN(
      auto sharder, ParameterSharder::Create(
                        execution_, mesh_,
                        {{.name = "mixer", .parameters = {&weight_, &a_log_}, .is_elsewhere = true},
                         {.name = "head", .parameters = {&head_}}}));
  EXPECT_EQ(sharder->num_units(), 2);
  EXPECT_EQ(sharder->num_parameters(), 15 + 3 + 4);
  ASSERT_EQ(sharder->sharded().size(), 3u);
  EXPECT_EQ(sharder->sharded()[0].name, "weight");
  EXPECT_EQ(sharder->sharded()[0].spec.logical_shape, Shape({3, 5}));
  EXPECT_EQ(sharder->sharded()[0].master.num_elements(), 0);
  EXPECT_EQ(sharder->sharded()[0].compute.dtype(), DType::kBf16);
  EXPECT_EQ(sharder->sharded()[2].master.num_elements(), 4);
  EXPECT_FALSE(weight_.value);
  EXPECT_EQ(sharder->memory().values, 4 * kTileElements);
}

TEST_F(ParameterSharderTest, ViewsShareOneSectionPerDtypeAndAreAligned) {
  ASSERT_OK_AND_ASSIGN(auto sharder, Create());
  const auto address = [](const Tensor& tensor) {
    return reinterpret_cast<uintptr_t>(tensor.raw());
  };
  // 15 bf16 elements are padded to a tile: norm follows weight in the same allocation.
  EXPECT_EQ(address(norm_.value), address(weight_.value) + 2 * kTileElements);
  EXPECT_EQ(address(norm_.gradient), address(weight_.gradient) + 4 * kTileElements);
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
  ASSERT_OK(sharder->RefreshComputeValues());
  EXPECT_EQ(static_cast<float>(weight_.value.data<BFloat16>()[4]), 1.0f);
  EXPECT_EQ(a_log_.value.data<float>()[2], 0.1f);
}

TEST_F(ParameterSharderTest, ZeroGradientsClearsWhatLayersAdded) {
  ASSERT_OK_AND_ASSIGN(auto sharder, Create());
  EXPECT_EQ(weight_.gradient.data<float>()[14], 0.0f);
  weight_.gradient.data<float>()[14] = 3;
  EXPECT_EQ(sharder->sharded()[0].gradient.data<float>()[14], 3.0f);
  ASSERT_OK(sharder->ZeroGradients());
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

TEST_F(ParameterSharderTest, RejectsF64BesideSmallerDtypes) {
  head_.dtype = DType::kF64;
  EXPECT_THAT(Create(), StatusIs(absl::StatusCode::kInvalidArgument,
                                 HasSubstr("head: is f64, weight is bf16")));
}

TEST_F(ParameterSharderTest, RejectsAnIntegerParameter) {
  weight_.dtype = DType::kI32;
  EXPECT_THAT(Create(), StatusIs(absl::StatusCode::kInvalidArgument,
                                 HasSubstr("weight: expected dtype bf16, f32 or f64, got i32")));
}

// Two units on several ranks, without a model: shares, gathers and reductions by hand.
struct Shards {
  Parameter wide{"wide", {150, 3}, DType::kBf16};  // 450 elements: several tiles
  Parameter scale{"scale", {5}, DType::kF32};
  Parameter last{"last", {130}, DType::kBf16};
};

double Value(const std::string& name, int64_t element) {
  return static_cast<double>(name.size()) + 0.5 * static_cast<double>(element % 8);
}

class ShardsTest : public ::testing::TestWithParam<std::tuple<int, bool, bool>> {};

TEST_P(ShardsTest, SharesCoverEveryElementOnceAndGatherAndReduce) {
  const auto [ranks, messages, canonical] = GetParam();
  std::vector<std::map<std::string, ShardSpec::Range>> ranges(static_cast<size_t>(ranks));
  ASSERT_OK(RunLocalRanks(ranks, [&](const std::shared_ptr<Communicator>& world) -> absl::Status {
    Execution execution{{.num_threads = 1}};
    PLAIT_ASSIGN_OR_RETURN(const DeviceMesh mesh, DeviceMesh::Create({1, 1, 0, 1, 1, 1}, world));
    Shards p;
    PLAIT_ASSIGN_OR_RETURN(
        auto sharder, ParameterSharder::Create(
                          execution, mesh, {{"first", {&p.wide, &p.scale}}, {"second", {&p.last}}},
                          {.canonical = canonical, .messages_only = messages}));
    for (ShardedParameter& parameter : sharder->sharded()) {
      const ShardSpec::Range range = parameter.spec.elements;
      ranges[static_cast<size_t>(world->rank())][parameter.name] = range;
      EXPECT_EQ(parameter.master.num_elements(), range.end - range.begin);
      for (int64_t i = range.begin; i < range.end; ++i) {
        parameter.master.data<float>()[i - range.begin] =
            static_cast<float>(Value(parameter.name, i));
      }
    }
    PLAIT_RETURN_IF_ERROR(sharder->RefreshComputeValues());
    for (int microbatch = 0; microbatch < 3; ++microbatch) {
      if (microbatch == 0) PLAIT_RETURN_IF_ERROR(sharder->ZeroGradients());
      PLAIT_RETURN_IF_ERROR(sharder->Unshard(execution, 0));
      PLAIT_RETURN_IF_ERROR(sharder->Prefetch(execution, 1));
      for (int64_t i = 0; i < 450; ++i) {
        EXPECT_EQ(static_cast<float>(p.wide.value.data<BFloat16>()[i]),
                  static_cast<float>(Value("wide", i)));
      }
      EXPECT_EQ(p.scale.value.data<float>()[4], static_cast<float>(Value("scale", 4)));
      PLAIT_RETURN_IF_ERROR(sharder->Reshard(execution, 0));
      PLAIT_RETURN_IF_ERROR(sharder->Unshard(execution, 1));
      EXPECT_EQ(static_cast<float>(p.last.value.data<BFloat16>()[129]),
                static_cast<float>(Value("last", 129)));
      for (const int unit : {1, 0}) {
        PLAIT_RETURN_IF_ERROR(sharder->PrepareGradients(execution, unit));
        for (Parameter* parameter : unit == 1 ? std::vector<Parameter*>{&p.last}
                                              : std::vector<Parameter*>{&p.wide, &p.scale}) {
          for (int64_t i = 0; i < parameter->gradient.num_elements(); ++i) {
            parameter->gradient.data<float>()[i] += static_cast<float>(i + world->rank());
          }
        }
        PLAIT_RETURN_IF_ERROR(sharder->ReduceGradients(execution, unit));
      }
    }
    PLAIT_RETURN_IF_ERROR(sharder->FinishGradients(execution));
    for (const ShardedParameter& parameter : sharder->sharded()) {
      const ShardSpec::Range range = parameter.spec.elements;
      for (int64_t i = range.begin; i < range.end; ++i) {
        // Three microbatches of every rank r: i + r.
        EXPECT_EQ(parameter.gradient.data<float>()[i - range.begin],
                  static_cast<float>(3 * (ranks * i + ranks * (ranks - 1) / 2)))
            << parameter.name << " " << i;
      }
    }
    return absl::OkStatus();
  }));
  for (const auto& [name, size] :
       std::map<std::string, int64_t>{{"wide", 450}, {"scale", 5}, {"last", 130}}) {
    int64_t next = 0;
    for (auto& rank : ranges) {
      if (rank[name].begin == rank[name].end) continue;
      EXPECT_EQ(rank[name].begin, next) << name;
      EXPECT_EQ(rank[name].begin % kTileElements, 0);
      next = rank[name].end;
    }
    EXPECT_EQ(next, size) << name;
  }
}

INSTANTIATE_TEST_SUITE_P(Ranks, ShardsTest,
                         ::testing::Combine(::testing::Values(1, 2, 3, 4), ::testing::Bool(),
                                            ::testing::Bool()));

// Four ranks, experts split over pairs: each rank holds half the experts, and half of that.
TEST(ExpertSectionsTest, LieInTheirOwnGroup) {
  EXPECT_OK(RunLocalRanks(4, [](const std::shared_ptr<Communicator>& world) -> absl::Status {
    Execution execution{{.num_threads = 1}};
    PLAIT_ASSIGN_OR_RETURN(const DeviceMesh mesh, DeviceMesh::Create({1, 1, 4, 1, 1, 2}, world));
    const int64_t expert = mesh.coordinate(MeshAxis::kExpert);
    Parameter dense{"dense", {1024}, DType::kF32};
    Parameter experts{"experts", {2, 256}, DType::kF32, MeshGroup::kExpertData};
    experts.box = ShardSpec::Whole({4, 256});
    experts.box->dim0_ranges = {{2 * expert, 2 * expert + 2}};
    PLAIT_ASSIGN_OR_RETURN(
        auto sharder, ParameterSharder::Create(execution, mesh, {{"unit", {&dense, &experts}}}));
    EXPECT_EQ(sharder->sharded()[0].master.num_elements(), 1024 / 4);
    ShardedParameter& shard = sharder->sharded()[1];
    EXPECT_EQ(shard.master.num_elements(), 512 / 2);
    EXPECT_EQ(shard.spec.logical_shape, Shape({4, 256}));
    EXPECT_EQ(shard.spec.elements.begin, 256 * (world->rank() / 2));
    // Gradients add up over the ranks with the same experts alone.
    PLAIT_RETURN_IF_ERROR(sharder->ZeroGradients());
    PLAIT_RETURN_IF_ERROR(sharder->PrepareGradients(execution, 0));
    for (float& value : dense.gradient.values<float>()) value += 1.0f;
    for (float& value : experts.gradient.values<float>()) {
      value += static_cast<float>(10 + world->rank());
    }
    PLAIT_RETURN_IF_ERROR(sharder->ReduceGradients(execution, 0));
    PLAIT_RETURN_IF_ERROR(sharder->FinishGradients(execution));
    EXPECT_EQ(sharder->sharded()[0].gradient.data<float>()[0], 4.0f);
    EXPECT_EQ(shard.gradient.data<float>()[0], static_cast<float>(20 + 2 * expert + 2));
    return absl::OkStatus();
  }));
}

}  // namespace
}  // namespace plait
