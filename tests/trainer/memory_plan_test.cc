// The memory that a plan says, beside what the allocator counted while a step ran.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdio>
#include <memory>
#include <ranges>
#include <string>
#include <string_view>
#include <vector>

#include "base/status_macros.h"
#include "kernels/cuda/runtime.h"
#include "parallel/local_communicator.h"
#include "recipes/schema/recipe.pb.h"
#include "tests/support/status_matchers.h"
#include "tests/support/tiny_run.h"
#include "trainer/device_memory.h"
#include "trainer/fresh_model.h"
#include "trainer/plan.h"
#include "trainer/random_batches.h"

namespace plait {
namespace {

// Rounding and the tokens' own arrays, not a block's tensor: the smallest of those, a norm's
// statistics apart, is 1 % of these models' peaks.
constexpr double kTolerance = 0.02;

struct SmallRecipe {
  std::string name;
  bool llama = false;
  bool has_experts = true;
  std::vector<std::string> overrides;
};

std::vector<SmallRecipe> SmallRecipes() {
  const std::vector<std::string> hybrid = {"model.layers=4", "model.pattern=MdMeAdMe"};
  const auto with = [](std::vector<std::string> all, const std::vector<std::string>& more) {
    all.insert(all.end(), more.begin(), more.end());
    return all;
  };
  const std::vector<std::string> llama = {"model.layers=4", "model.attention.heads=4",
                                          "model.attention.kv_heads=2"};
  const std::string blocks = "trainer.recomputation=BLOCKS";
  const std::string long_rows = "stages.0.row_tokens=2048";
  return {
      {.name = "hybrid", .overrides = hybrid},
      {.name = "hybrid, recomputed", .overrides = with(hybrid, {blocks})},
      {.name = "Mamba alone",
       .has_experts = false,
       .overrides = {"model.layers=3", "model.pattern=3*Md"}},
      {.name = "attention with experts", .overrides = {"model.layers=3", "model.pattern=3*Ae"}},
      {.name = "Llama", .llama = true, .overrides = llama},
      {.name = "Llama, recomputed, long rows",
       .llama = true,
       .overrides = with(llama, {blocks, long_rows})},
      {.name = "tied, every activation loss",
       .overrides =
           with(hybrid, {"model.tied_embeddings=true",
                         "model.activation_loss.sites=BLOCK_OUTPUT,EXPERT_OUTPUT,RESIDUAL"})},
      {.name = "bf16, long rows", .overrides = with(hybrid, {"trainer.precision=BF16", long_rows})},
  };
}

recipe::v1::Recipe RecipeOf(const SmallRecipe& small, int ranks) {
  std::vector<std::string> overrides = {
      "model.vocabulary=2048",         "model.model_dim=128",     "model.hidden_dim=384",
      "model.tied_embeddings=false",   "stages.0.row_tokens=512", "stages.0.rows_per_microbatch=1",
      "stages.0.tokens_per_step=2048", "stages.1.row_tokens=512", "stages.1.tokens_per_step=8192"};
  if (!small.llama) {
    for (const char* more : {"model.mamba.state_dim=16", "model.mamba.dt_rank=8"}) {
      overrides.push_back(more);
    }
  }
  overrides.insert(overrides.end(), small.overrides.begin(), small.overrides.end());
  std::string text = small.llama ? TinyLlamaRecipeText("unused") : TinyRecipeText("unused");
  if (!small.has_experts) {
    const size_t begin = text.find("experts {"), end = text.find('}', begin) + 1;
    text.erase(begin, end - begin);
  }
  return ResolvedRecipe(text, overrides, ranks);
}

// As planned: a row is a document.
std::vector<Batch> BatchesOf(const recipe::v1::Recipe& recipe) {
  std::vector<Batch> batches = RandomStep(recipe, /*stage=*/0);
  for (Batch& batch : batches) {
    const auto tokens = static_cast<int32_t>(batch.tokens.num_elements());
    batch.document_offsets = Tensor::FromValues<int32_t>({2}, {0, tokens});
  }
  return batches;
}

// Most bytes that each rank held in two steps.
std::vector<int64_t> MeasuredPeaks(const recipe::v1::Recipe& recipe, int ranks) {
  std::vector<int64_t> peaks(static_cast<size_t>(ranks));
  const std::vector<Batch> batches = BatchesOf(recipe);
  EXPECT_OK(RunLocalRanks(ranks, [&](const std::shared_ptr<Communicator>& world) -> absl::Status {
    Execution execution{{.num_threads = 1}};
    PLAIT_ASSIGN_OR_RETURN(const auto fresh, FreshModel::Create(execution, recipe, world));
    const std::vector<Batch> own = OwnLeaves(*fresh->runtime.mesh, batches);
    for (int i = 0; i < 2; ++i) PLAIT_RETURN_IF_ERROR(fresh->step->Run(own, 1e-3).status());
    peaks[static_cast<size_t>(world->rank())] = fresh->runtime.AllocatedBytesPeak(execution);
    return absl::OkStatus();
  }));
  return peaks;
}

void ExpectPlanned(const recipe::v1::Recipe& recipe, int ranks) {
  ASSERT_OK_AND_ASSIGN(const Plan plan, MakePlan(recipe, {.ranks = ranks, .device = "CPU"}));
  const auto planned = static_cast<double>(plan.stages[0].memory.total);
  for (const int64_t measured : MeasuredPeaks(recipe, ranks)) {
    EXPECT_NEAR(planned, static_cast<double>(measured), kTolerance * static_cast<double>(measured));
    std::printf("  %d ranks: planned %.3f MB, measured %.3f MB, %+.2f %%\n", ranks, 1e-6 * planned,
                1e-6 * static_cast<double>(measured),
                100 * (planned / static_cast<double>(measured) - 1));
  }
}

// Smaller, for the emulated device: of its memory the most that a step of two microbatches held.
// With many states that is when the scan's partial sums are there.
TEST(MemoryPlanTest, ADeviceHoldsWhatThePlanSays) {
  const std::vector<SmallRecipe> all = SmallRecipes();
  SmallRecipe bias = all[2];
  bias.name = "Mamba alone, bf16, with projection biases and many states";
  bias.overrides.insert(
      bias.overrides.end(),
      {"model.mamba.projection_bias=true", "model.mamba.state_dim=128", "trainer.precision=BF16"});
  SmallRecipe narrow = all[0];
  narrow.name = "hybrid, bf16";
  narrow.overrides.push_back("trainer.precision=BF16");
  cuda::AllowEmulation();
  ASSERT_OK_AND_ASSIGN(const auto runtime, cuda::Runtime(0));
  for (SmallRecipe small : {all[1], all[4], all[6], bias, narrow}) {
    SCOPED_TRACE(small.name);
    for (const char* size : {"model.vocabulary=128", "model.model_dim=64", "model.hidden_dim=96",
                             "stages.0.row_tokens=128", "stages.0.tokens_per_step=256"}) {
      small.overrides.emplace_back(size);
    }
    const recipe::v1::Recipe recipe = RecipeOf(small, 1);
    ASSERT_OK_AND_ASSIGN(
        const Plan plan,
        MakePlan(recipe, {.device = "H100", .libraries = DeviceLibraries::kEmulated}));
    const auto planned = static_cast<double>(plan.stages[0].memory.total);
    Execution execution({.device = {DeviceKind::kCuda, 0}, .runtime = runtime, .num_threads = 1});
    ASSERT_OK(ReserveDeviceMemory(execution, recipe, /*ranks=*/1));
    ASSERT_OK_AND_ASSIGN(const auto fresh, FreshModel::Create(execution, recipe));
    ASSERT_OK(fresh->step->Run(BatchesOf(recipe), 1e-3).status());
    EXPECT_LE(execution.allocator().reserved_bytes_needed(),
              execution.allocator().reserved_bytes());
    std::printf("%.2f %% of it is gaps\n",
                100.0 * (static_cast<double>(execution.allocator().reserved_bytes_needed()) /
                             static_cast<double>(execution.allocator().bytes_in_use_peak()) -
                         1));
    const auto measured = static_cast<double>(fresh->runtime.AllocatedBytesPeak(execution));
    EXPECT_NEAR(planned, measured, kTolerance * measured);
    EXPECT_GT(execution.pinned_bytes_peak(), 0u);
    EXPECT_LE(static_cast<int64_t>(execution.pinned_bytes_peak()), plan.stages[0].memory.pinned);
    std::printf("%s on a device: planned %.3f MB, measured %.3f MB, %+.2f %%\n", small.name.c_str(),
                1e-6 * planned, 1e-6 * measured, 100 * (planned / measured - 1));
  }
}

TEST(MemoryPlanTest, EightSmallRecipesHoldWhatThePlanSays) {
  for (const SmallRecipe& small : SmallRecipes()) {
    SCOPED_TRACE(small.name);
    std::printf("%s\n", small.name.c_str());
    ExpectPlanned(RecipeOf(small, 1), 1);
  }
}

TEST(MemoryPlanTest, ShardsAndReplicasHoldWhatThePlanSays) {
  for (const char* assignment :
       {"parallel.shard=4", "parallel.shard=4 parallel.transport=MESSAGES", "parallel.replicate=2",
        "parallel.replicate=2 parallel.reduction=CANONICAL"}) {
    for (const int ranks : {2, 4}) {
      SCOPED_TRACE(assignment);
      SmallRecipe small = SmallRecipes()[1];
      for (const auto part : std::views::split(std::string_view(assignment), ' ')) {
        const std::string text(part.begin(), part.end());
        small.overrides.push_back(
            text == "parallel.shard=4" ? "parallel.shard=" + std::to_string(ranks) : text);
      }
      std::printf("%s\n", assignment);
      ExpectPlanned(RecipeOf(small, ranks), ranks);
    }
  }
}

TEST(MemoryPlanTest, TensorAndContextRanksHoldWhatThePlanSays) {
  const std::vector<SmallRecipe> all = SmallRecipes();
  for (const char* axes :
       {"parallel.tensor=2", "parallel.context=2", "parallel.tensor=2 parallel.context=2"}) {
    const int ranks = std::string_view(axes).size() > 20 ? 4 : 2;
    for (const size_t recipe : {2, 4, 5}) {  // Mamba alone, Llama, and recomputed
      SmallRecipe small = all[recipe];
      small.overrides.push_back("model.attention.kv_heads=2");
      SCOPED_TRACE(small.name + " " + axes);
      for (const auto part : std::views::split(std::string_view(axes), ' ')) {
        small.overrides.emplace_back(part.begin(), part.end());
      }
      std::printf("%s, %s\n", small.name.c_str(), axes);
      ExpectPlanned(RecipeOf(small, ranks), ranks);
    }
  }
}

TEST(MemoryPlanTest, TheStageThatHoldsMostHoldsWhatThePlanSays) {
  for (const char* assignment : {"parallel.pipeline=2", "parallel.pipeline_chunks=2"}) {
    for (const size_t recipe : {1, 2, 4}) {  // hybrid recomputed, Mamba alone, Llama
      SmallRecipe small = SmallRecipes()[recipe];
      SCOPED_TRACE(small.name + " " + assignment);
      small.overrides.push_back("parallel.pipeline=2");
      small.overrides.push_back(assignment);
      const recipe::v1::Recipe pipeline = RecipeOf(small, 2);
      ASSERT_OK_AND_ASSIGN(const Plan plan, MakePlan(pipeline, {.ranks = 2, .device = "CPU"}));
      const auto planned = static_cast<double>(plan.stages[0].memory.total);
      const std::vector<int64_t> peaks = MeasuredPeaks(pipeline, 2);
      const auto measured = static_cast<double>(*std::ranges::max_element(peaks));
      std::printf("%s, %s: planned %.3f MB, measured %.3f MB, %+.2f %%\n", small.name.c_str(),
                  assignment, 1e-6 * planned, 1e-6 * measured, 100 * (planned / measured - 1));
      EXPECT_NEAR(planned, measured, kTolerance * measured);
      EXPECT_EQ(plan.stages[0].pipeline_stage, std::ranges::max_element(peaks) - peaks.begin());
    }
  }
}

// How many rows come depends on the routing: between an even one's and the worst.
TEST(MemoryPlanTest, RanksOfExpertsHoldAtMostTheWorstThatThePlanSays) {
  SmallRecipe small = SmallRecipes()[0];
  small.overrides.push_back("parallel.expert=2");
  const recipe::v1::Recipe recipe = RecipeOf(small, 2);
  ASSERT_OK_AND_ASSIGN(const Plan plan, MakePlan(recipe, {.ranks = 2, .device = "CPU"}));
  const MemoryPlan& memory = plan.stages[0].memory;
  EXPECT_GT(memory.worst_total, memory.total);
  for (const int64_t measured : MeasuredPeaks(recipe, 2)) {
    std::printf("  planned %.3f MB, at worst %.3f MB, measured %.3f MB\n",
                1e-6 * static_cast<double>(memory.total),
                1e-6 * static_cast<double>(memory.worst_total),
                1e-6 * static_cast<double>(measured));
    EXPECT_LE(measured, memory.worst_total);
    EXPECT_NEAR(static_cast<double>(measured), static_cast<double>(memory.total),
                0.2 * static_cast<double>(memory.total));
  }
}

}  // namespace
}  // namespace plait
