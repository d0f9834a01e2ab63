// What is exact about replicate and shard: the canonical reduction's bits, the bytes that a step
// moves, and the memory that a rank holds. That every layout learns what one rank learns:
// layout_check_test.cc.
#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <map>
#include <mutex>

#include "base/random.h"
#include "base/status_macros.h"
#include "checkpoint/shard_overlap.h"
#include "data/sequence_packing.h"
#include "optim/adamw.h"
#include "parallel/communication_plan.h"
#include "parallel/local_communicator.h"
#include "tests/support/status_matchers.h"
#include "tests/support/tensor_matchers.h"
#include "tests/support/tiny_run.h"
#include "trainer/fresh_model.h"

namespace plait {
namespace {

using ::testing::HasSubstr;

constexpr int64_t kRowTokens = 12;
constexpr int kLeaves = 12;

// Two documents, the second an SFT-like prompt and answer with weights of their own; some rows end
// in padding.
Row MixedRow(uint64_t seed) {
  const RandomKey key(seed, RandomPurpose::kTest, "mixed row");
  Row row;
  const int64_t tokens = kRowTokens - static_cast<int64_t>(seed % 3);
  for (int64_t t = 0; t < tokens; ++t) {
    const auto words = key.Words(static_cast<uint64_t>(t));
    row.tokens.push_back(static_cast<int32_t>(words[0] % kTinyVocabulary));
    row.targets.push_back(static_cast<int32_t>(words[1] % kTinyVocabulary));
    row.weights.push_back(t < 4 ? 1.0f : t < 8 ? 0.0f : 0.3f + 0.1f * static_cast<float>(t % 3));
  }
  row.document_starts = {0, 4};
  row.weights[3] = 0;
  return row;
}

// The leaves of a step, two rows each.
std::vector<Batch> Leaves(int step) {
  std::vector<Batch> leaves;
  for (int i = 0; i < kLeaves; ++i) {
    const auto row = static_cast<uint64_t>(1000 * step + 2 * i);
    leaves.push_back(PackRows({{MixedRow(row), MixedRow(row + 1)}}, kRowTokens));
  }
  return leaves;
}

// What a run ends with: whole tensors by name, put together from all ranks.
struct Outcome {
  std::map<std::string, Tensor> masters;
  std::vector<StepResult> steps;  // of rank 0
};

void CopyShard(const ShardedParameter& parameter, const Tensor& shard, Tensor& whole) {
  if (!whole) whole = Tensor::OnHost(shard.dtype(), parameter.spec.logical_shape);
  const size_t width = SizeOf(shard.dtype());
  for (const ShardRun& run : RunsOf(parameter.spec)) {
    std::memcpy(static_cast<char*>(whole.raw()) + static_cast<size_t>(run.logical) * width,
                static_cast<const char*>(shard.raw()) + static_cast<size_t>(run.shard) * width,
                static_cast<size_t>(run.length) * width);
  }
}

struct Layout {
  int replicate = 1;
  int shard = 1;
  std::vector<std::string> settings = {};
  int pipeline = 1;

  int ranks() const { return replicate * shard * pipeline; }
  std::string ToString() const {
    std::string text = "replicate " + std::to_string(replicate) + " shard " + std::to_string(shard);
    if (pipeline > 1) text += " pipeline " + std::to_string(pipeline);
    for (const std::string& setting : settings) text += " " + setting;
    return text;
  }
};

absl::StatusOr<Outcome> Train(const std::string& recipe_text, std::vector<std::string> overrides,
                              const Layout& layout, int steps, double learning_rate) {
  // Larger than in training: no gradient is so small that it is all cancellation.
  overrides.push_back("model.initializer_range=0.3");
  overrides.push_back("optim.gradient_clip_norm=0.5");
  overrides.push_back("parallel.replicate=" + std::to_string(layout.replicate));
  overrides.push_back("parallel.shard=" + std::to_string(layout.shard));
  overrides.insert(overrides.end(), layout.settings.begin(), layout.settings.end());
  overrides.push_back("stages.0.tokens_per_step=384");  // 12 microbatches of 2 x 16 tokens
  overrides.push_back("stages.1.tokens_per_step=768");
  const recipe::v1::Recipe recipe = ResolvedRecipe(recipe_text, overrides, layout.ranks());
  Outcome outcome;
  std::mutex mutex;
  const auto body = [&](const std::shared_ptr<Communicator>& world) -> absl::Status {
    world->ledger().set_check(true);
    Execution execution{{.num_threads = 1}};
    PLAIT_ASSIGN_OR_RETURN(const auto fresh, FreshModel::Create(execution, recipe, world));
    for (int s = 0; s < steps; ++s) {
      const std::vector<Batch> own = OwnLeaves(*fresh->runtime.mesh, Leaves(s));
      PLAIT_ASSIGN_OR_RETURN(StepResult result, fresh->step->Run(own, learning_rate));
      if (world->rank() == 0) outcome.steps.push_back(std::move(result));
    }
    const std::lock_guard lock(mutex);
    for (const ShardedParameter& parameter : fresh->runtime.sharder->sharded()) {
      CopyShard(parameter, parameter.master, outcome.masters[parameter.name]);
    }
    return absl::OkStatus();
  };
  PLAIT_RETURN_IF_ERROR(RunLocalRanks(layout.ranks(), body));
  return outcome;
}

const std::vector<std::string> kAllLosses = {"model.experts.balance_loss_coefficient=0.7",
                                             "model.experts.z_loss_coefficient=0.3",
                                             "model.activation_loss.coefficient=0.5"};

std::vector<std::string> With(std::vector<std::string> settings, const std::string& another) {
  settings.push_back(another);
  return settings;
}

// Five steps of AdamW with clipping: the same bits, whatever the layout and transport.
TEST(CanonicalReductionTest, GivesEveryLayoutTheSameBits) {
  for (const std::string precision : {"BF16", "F32"}) {
    for (const std::string wire : {"F32", "BF16"}) {
      const std::vector<std::string> overrides = With(
          With(With(kAllLosses, "trainer.precision=" + precision), "parallel.reduction=CANONICAL"),
          "parallel.gradient_wire_dtype=" + wire);
      ASSERT_OK_AND_ASSIGN(const Outcome one,
                           Train(TinyRecipeText("unused"), overrides, {}, 5, 1e-2));
      for (const Layout& layout :
           {Layout{1, 2}, Layout{2, 1}, Layout{1, 3}, Layout{2, 2}, Layout{1, 4}, Layout{3, 2},
            Layout{1, 6}, Layout{2, 2, {"parallel.transport=MESSAGES"}}}) {
        SCOPED_TRACE(precision + " wire " + wire + " " + layout.ToString());
        ASSERT_OK_AND_ASSIGN(const Outcome many,
                             Train(TinyRecipeText("unused"), overrides, layout, 5, 1e-2));
        for (const auto& [name, tensor] : one.masters) {
          ExpectSameBits(name, many.masters.at(name), tensor);
        }
        for (size_t s = 0; s < one.steps.size(); ++s) {
          EXPECT_EQ(many.steps[s].loss(), one.steps[s].loss()) << "step " << s;
          EXPECT_EQ(many.steps[s].gradient_norm, one.steps[s].gradient_norm) << "step " << s;
        }
      }
    }
  }
}

// Without it the sums are taken in another order, and bits differ: the test above can fail.
TEST(CanonicalReductionTest, IsWhatMakesThemEqual) {
  const std::vector<std::string> overrides = With(kAllLosses, "trainer.precision=F32");
  ASSERT_OK_AND_ASSIGN(const Outcome one, Train(TinyRecipeText("unused"), overrides, {}, 2, 1e-2));
  ASSERT_OK_AND_ASSIGN(const Outcome three,
                       Train(TinyRecipeText("unused"), overrides, {1, 3}, 2, 1e-2));
  bool all_equal = true;
  for (const auto& [name, tensor] : one.masters) {
    const Tensor& other = three.masters.at(name);
    all_equal = all_equal && std::memcmp(tensor.raw(), other.raw(), tensor.bytes()) == 0;
  }
  EXPECT_FALSE(all_equal);
}

TEST(LayoutsFailureTest, AWorldThatDoesNotFitTheMeshIsNamed) {
  const recipe::v1::Recipe recipe = TinyRecipe("unused", {"parallel.shard=1"});
  EXPECT_THAT(
      RunLocalRanks(2,
                    [&](const std::shared_ptr<Communicator>& world) {
                      Execution execution{{.num_threads = 1}};
                      return ModelRuntime::Create(execution, recipe, world).status();
                    }),
      StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("does not make a world of 2 ranks")));
}

// Integers: what the plan says from the layout alone, and what the ledger counted.
TEST(CommunicationPlanTest, CountsEveryByteOfAStep) {
  for (const Layout& layout :
       {Layout{1, 2}, Layout{2, 1}, Layout{2, 2}, Layout{1, 3},
        Layout{1, 3, {"parallel.transport=MESSAGES"}},
        Layout{2, 2, {"parallel.transport=MESSAGES", "parallel.gradient_wire_dtype=BF16"}},
        Layout{2, 2, {"parallel.reduction=CANONICAL"}},
        Layout{2, 2, {"parallel.reduction=CANONICAL", "parallel.transport=MESSAGES"}},
        Layout{1, 1, {}, 2}, Layout{2, 2, {"parallel.transport=MESSAGES"}, 3},
        Layout{1, 2, {"parallel.pipeline_chunks=3"}, 2}}) {
    SCOPED_TRACE(layout.ToString());
    std::vector<std::string> overrides = {"model.tied_embeddings=false",
                                          "stages.0.tokens_per_step=384",
                                          "stages.1.tokens_per_step=768",
                                          "parallel.replicate=" + std::to_string(layout.replicate),
                                          "parallel.shard=" + std::to_string(layout.shard),
                                          "parallel.pipeline=" + std::to_string(layout.pipeline)};
    overrides.insert(overrides.end(), layout.settings.begin(), layout.settings.end());
    const recipe::v1::Recipe recipe = TinyRecipe("unused", overrides, layout.ranks());
    EXPECT_OK(RunLocalRanks(
        layout.ranks(), [&](const std::shared_ptr<Communicator>& world) -> absl::Status {
          Execution execution{{.num_threads = 1}};
          PLAIT_ASSIGN_OR_RETURN(const auto fresh, FreshModel::Create(execution, recipe, world));
          const ModelRuntime& runtime = fresh->runtime;
          const std::vector<Batch> own = OwnLeaves(*runtime.mesh, Leaves(0));
          const int64_t before = world->ledger().bytes_moved();
          PLAIT_ASSIGN_OR_RETURN(const StepResult result, fresh->step->Run(own, 1e-3));
          const ModelShape& model = runtime.model->shape();
          StepShape shape{.microbatches = static_cast<int64_t>(own.size()),
                          .chunks = runtime.model->num_chunks(),
                          .stream_bytes = 2 * kRowTokens * model.model_dim * 4,
                          .experts = model.experts};
          for (const BlockActivations& block : result.watch.blocks) {
            (void)block;
            shape.watch_sums += 2;
            shape.watch_maxima += 1;
          }
          for (const ExpertActivations& layer : result.watch.experts) {
            shape.watch_sums += 2 * static_cast<int64_t>(layer.tokens.size());
            // And its load: of ranks, waves, recomputed waves.
            shape.watch_maxima += static_cast<int64_t>(layer.absolute_max.size()) + 3;
          }
          const CommunicationPlan plan = PlanStep(
              *runtime.mesh, runtime.sharder->layouts(),
              {.canonical = recipe.parallel().reduction() == recipe::v1::Parallel::CANONICAL,
               .gradient_wire =
                   recipe.parallel().gradient_wire_dtype() == recipe::v1::Parallel::BF16
                       ? DType::kBf16
                       : DType::kF32},
              runtime.sharder->has_windows() &&
                  recipe.parallel().transport() != recipe::v1::Parallel::MESSAGES,
              shape);
          EXPECT_EQ(world->ledger().bytes_moved() - before, plan.total());
          return absl::OkStatus();
        }));
  }
}

// What a rank holds: shares of values, masters, gradients and moments, and whole units of gradients
// on their way. A model large enough that tiles and allocation sizes do not matter.
TEST(MemoryTest, FallsWithTheNumberOfShards) {
  for (const int ranks : {1, 2, 4}) {
    SCOPED_TRACE(ranks);
    const recipe::v1::Recipe recipe = TinyRecipe(
        "unused",
        {"model.model_dim=128", "model.hidden_dim=512", "model.vocabulary=3000",
         "model.tied_embeddings=false", "model.attention.heads=2", "stages.0.tokens_per_step=256",
         "stages.1.tokens_per_step=256", "trainer.precision=BF16"},
        ranks);
    EXPECT_OK(RunLocalRanks(ranks, [&](const std::shared_ptr<Communicator>& world) -> absl::Status {
      Execution execution{{.num_threads = 1}};
      PLAIT_ASSIGN_OR_RETURN(ModelRuntime runtime, ModelRuntime::Create(execution, recipe, world));
      PLAIT_ASSIGN_OR_RETURN(auto optimizer, AdamW::Create(execution, recipe.optim().adamw(),
                                                           runtime.sharder->sharded()));
      double parameters = 0, bf16 = 0, largest = 0;
      for (const ParameterUnit& unit : runtime.model->Units()) {
        double size = 0;
        for (const Parameter* parameter : unit.parameters) {
          const auto elements = static_cast<double>(parameter->shape.num_elements());
          size += elements;
          if (parameter->dtype == DType::kBf16) bf16 += elements;
        }
        parameters += size;
        largest = std::max(largest, size);
      }
      const ParameterSharder::Memory memory = runtime.sharder->memory();
      const double n = ranks;
      // bf16 values with f32 masters; f32 ones are their own masters.
      EXPECT_NEAR(static_cast<double>(memory.values), (2 * bf16 + 4 * (parameters - bf16)) / n,
                  0.05 * 2 * bf16 / n);
      EXPECT_NEAR(static_cast<double>(memory.masters), 4 * bf16 / n, 0.05 * 4 * bf16 / n);
      EXPECT_NEAR(static_cast<double>(memory.gradients), 4 * parameters / n,
                  0.05 * 4 * parameters / n);
      EXPECT_NEAR(static_cast<double>(memory.gradient_buffers), ranks == 1 ? 0 : 4 * 4 * largest,
                  0.05 * 4 * 4 * largest);
      // The allocator's own count: everything but what lies in shared windows.
      const double in_windows =
          ranks == 1 ? 0 : static_cast<double>(memory.values + memory.gradient_buffers);
      const double total = static_cast<double>(memory.values + memory.masters + memory.gradients +
                                               memory.gradient_buffers) +
                           8 * parameters / n;
      EXPECT_NEAR(static_cast<double>(execution.allocator().bytes_in_use()) + in_windows, total,
                  0.05 * total);
      return absl::OkStatus();
    }));
  }
}

}  // namespace
}  // namespace plait
