#include "trainer/plan.h"

#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <vector>

#include "base/status_macros.h"
#include "parallel/local_communicator.h"
#include "recipes/schema/recipe.pb.h"
#include "tests/support/status_matchers.h"
#include "tests/support/tiny_run.h"
#include "trainer/fresh_model.h"
#include "trainer/random_batches.h"

namespace plait {
namespace {

enum class Experts { kSome, kNone };

recipe::v1::Recipe SmallRecipe(std::vector<std::string> overrides, int ranks,
                               Experts experts = Experts::kSome) {
  for (const char* more : {"model.attention.kv_heads=2", "model.tied_embeddings=false",
                           "stages.0.row_tokens=64", "stages.0.rows_per_microbatch=1",
                           "stages.0.tokens_per_step=512", "stages.1.tokens_per_step=512"}) {
    overrides.insert(overrides.begin(), more);
  }
  std::string text = TinyRecipeText("unused");
  if (experts == Experts::kNone) {
    const size_t begin = text.find("experts {"), end = text.find('}', begin) + 1;
    text.erase(begin, end - begin);
    overrides.push_back("model.pattern=MdMdAd");
  }
  return ResolvedRecipe(text, overrides, ranks);
}

// Bytes that a rank of this pipeline stage moved in a step of rows of one document each.
int64_t MeasuredBytes(const recipe::v1::Recipe& recipe, int ranks, int64_t stage = 0) {
  int64_t bytes = 0;
  std::vector<Batch> batches = RandomStep(recipe, /*stage=*/0);
  for (Batch& batch : batches) {
    const auto tokens = static_cast<int32_t>(batch.tokens.num_elements());
    batch.document_offsets = Tensor::FromValues<int32_t>({2}, {0, tokens});
  }
  EXPECT_OK(RunLocalRanks(ranks, [&](const std::shared_ptr<Communicator>& world) -> absl::Status {
    Execution execution{{.num_threads = 1}};
    PLAIT_ASSIGN_OR_RETURN(const auto fresh, FreshModel::Create(execution, recipe, world));
    const DeviceMesh& mesh = *fresh->runtime.mesh;
    const std::vector<Batch> own = OwnLeaves(mesh, batches);
    const int64_t before = world->ledger().bytes_moved();
    PLAIT_RETURN_IF_ERROR(fresh->step->Run(own, 1e-3).status());
    if (world->rank() == stage * (ranks / mesh.size(MeshAxis::kPipeline)))
      bytes = world->ledger().bytes_moved() - before;
    return absl::OkStatus();
  }));
  return bytes;
}

int64_t BytesOf(const StagePlan& stage, const std::string& what) {
  int64_t bytes = 0;
  for (const PlannedCollective& collective : stage.communication.collectives) {
    if (collective.what == what) bytes += collective.bytes;
  }
  return bytes;
}

TEST(PlanTest, CountsEveryByteOfAStep) {
  for (const auto& [assignments, ranks] : {
           std::pair<std::vector<std::string>, int>{{"parallel.tensor=2"}, 2},
           {{"parallel.tensor=2", "parallel.shard=2", "trainer.recomputation=BLOCKS"}, 4},
           {{"parallel.context=2"}, 2},
           {{"parallel.context=2", "parallel.tensor=2", "trainer.recomputation=BLOCKS"}, 4},
           {{"parallel.replicate=2", "parallel.transport=MESSAGES"}, 2},
           {{"parallel.shard=2", "parallel.gradient_wire_dtype=BF16",
             "parallel.transport=MESSAGES"},
            2},
           {{"parallel.pipeline=2"}, 2},
           {{"parallel.pipeline=2", "parallel.pipeline_chunks=3"}, 2},
           {{"parallel.pipeline=2", "parallel.tensor=2", "trainer.recomputation=BLOCKS"}, 4},
       }) {
    SCOPED_TRACE(assignments.back());
    const recipe::v1::Recipe recipe = SmallRecipe(assignments, ranks, Experts::kNone);
    ASSERT_OK_AND_ASSIGN(const Plan plan, MakePlan(recipe, {.ranks = ranks, .device = "CPU"}));
    EXPECT_EQ(plan.stages[0].communication.total(),
              MeasuredBytes(recipe, ranks, plan.stages[0].pipeline_stage));
  }
}

// How many of them leave depends on the routing; everything else is exact.
TEST(PlanTest, CountsRowsOfExpertsAsOfAnEvenRouting) {
  for (const auto& [assignments, ranks] :
       {std::pair<std::vector<std::string>, int>{{"parallel.expert=2"}, 2},
        {{"parallel.tensor=2", "trainer.recomputation=BLOCKS"}, 2}}) {
    SCOPED_TRACE(assignments.back());
    const recipe::v1::Recipe recipe = SmallRecipe(assignments, ranks);
    ASSERT_OK_AND_ASSIGN(const Plan plan, MakePlan(recipe, {.ranks = ranks, .device = "CPU"}));
    const auto rows = static_cast<double>(BytesOf(plan.stages[0], kExpertRows));
    ASSERT_GT(rows, 0);
    EXPECT_NEAR(static_cast<double>(plan.stages[0].communication.total()),
                static_cast<double>(MeasuredBytes(recipe, ranks)), 0.5 * rows);
  }
}

TEST(PlanTest, AnotherDeviceIsRefused) {
  EXPECT_THAT(MakePlan(SmallRecipe({}, 1), {.ranks = 1, .device = "B200"}).status(),
              StatusIs(absl::StatusCode::kInvalidArgument, ::testing::HasSubstr("B200")));
}

TEST(PlanTest, MoreRanksHoldLessAndAStepTakesLess) {
  const auto plan_of = [](int ranks) {
    return *MakePlan(SmallRecipe({"parallel.shard=" + std::to_string(ranks)}, ranks),
                     {.ranks = ranks, .device = "H100"});
  };
  const Plan one = plan_of(1), four = plan_of(4);
  EXPECT_EQ(four.stages[0].microbatches * 4, one.stages[0].microbatches);
  EXPECT_LT(four.stages[0].memory.classes[static_cast<int>(MemoryClass::kOptimizer)],
            one.stages[0].memory.classes[static_cast<int>(MemoryClass::kOptimizer)]);
  EXPECT_LT(four.stages[0].estimate.matmul * static_cast<double>(four.stages[0].microbatches),
            one.stages[0].estimate.matmul * static_cast<double>(one.stages[0].microbatches));
  EXPECT_GT(one.stages[0].estimate.mfu, 0);
}

TEST(PlanTest, ClassesAddUpToTheTotal) {
  ASSERT_OK_AND_ASSIGN(const Plan plan,
                       MakePlan(SmallRecipe({"parallel.shard=2", "parallel.expert=2"}, 2),
                                {.ranks = 2, .device = "H100"}));
  for (const StagePlan& stage : plan.stages) {
    int64_t sum = 0;
    for (const int64_t bytes : stage.memory.classes) sum += bytes;
    EXPECT_EQ(sum, stage.memory.total);
    EXPECT_GE(stage.memory.worst_total, stage.memory.total);
  }
}

}  // namespace
}  // namespace plait
