// The demo recipe's model, trained for 100 steps on mixed layouts and on one rank: the same loss
// curve. A layout may be wrong by a rounding in every gradient, 2e-5 of its norm at most
// (CheckedLayout::bound), and what that does over 100 steps of AdamW has no short formula. So it is
// measured: one rank trains again with every gradient of every step wrong at random by just that
// much. A layout's curve stays within the distance that this one has come from the true one, and a
// rounding of the loss itself.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>

#include "base/random.h"
#include "base/status_macros.h"
#include "data/hdf5_token_source.h"
#include "data/sequence_packing.h"
#include "optim/adamw.h"
#include "optim/learning_rate_schedule.h"
#include "parallel/local_communicator.h"
#include "tests/support/status_matchers.h"
#include "tests/support/tiny_run.h"
#include "trainer/pretraining_objective.h"
#include "trainer/training_step.h"

namespace plait {
namespace {

using recipe::v1::Recipe;

constexpr int64_t kSteps = 100;
constexpr double kGradientBound = 2e-5;
// Of a step's loss at equal weights, relative: sixteen roundings of f32 one way.
constexpr double kLossBound = 1e-6;

// Errors of relative size `error`, uniform in +-sqrt(3) error, in every gradient element.
class ErringOptimizer final : public Optimizer {
 public:
  ErringOptimizer(Optimizer& inner, std::span<ShardedParameter> parameters, double error)
      : inner_(inner), parameters_(parameters), error_(error) {}

  absl::Status Step(Execution& execution, double learning_rate, double gradient_scale) override {
    ++step_;
    for (ShardedParameter& parameter : parameters_) {
      const RandomKey key(/*seed=*/1, RandomPurpose::kTest, parameter.name, step_);
      const std::span<float> gradient = parameter.gradient.values<float>();
      for (size_t i = 0; i < gradient.size(); ++i) {
        const double noise = std::sqrt(3.0) * error_ * (2 * key.Uniform(i) - 1);
        gradient[i] = static_cast<float>(gradient[i] * (1 + noise));
      }
    }
    return inner_.Step(execution, learning_rate, gradient_scale);
  }
  void AppendState(NamedState& state) const override { inner_.AppendState(state); }
  absl::Status RestoreScalars(const NamedState& state) override {
    return inner_.RestoreScalars(state);
  }

 private:
  Optimizer& inner_;
  std::span<ShardedParameter> parameters_;
  double error_;
  uint32_t step_ = 0;
};

// The demo's first stage, shorter: rows of 128 tokens, four microbatches of one row a step. Two
// key-value heads, so that two tensor ranks have one each; the vocabulary of the tiny data. At the
// demo's learning rate the tiny data is learned in jumps, which magnify a rounding to 1e-2 of the
// loss on one rank too; at 2e-3 the loss falls as fast, and roundings stay roundings.
absl::StatusOr<Recipe> DemoRecipe(const TinyData& data, const std::vector<std::string>& parallel,
                                  int ranks) {
  PLAIT_ASSIGN_OR_RETURN(Recipe recipe, LoadRecipe("recipes/library/demo_pretrain.textproto"));
  recipe.mutable_stages()->DeleteSubrange(1, recipe.stages_size() - 1);
  std::vector<std::string> overrides = {"data.path=" + data.path(),
                                        "model.vocabulary=300",
                                        "model.attention.kv_heads=2",
                                        "stages.0.steps=100",
                                        "stages.0.row_tokens=128",
                                        "stages.0.rows_per_microbatch=1",
                                        "stages.0.tokens_per_step=512",
                                        "stages.0.schedule.warmup_steps=20",
                                        "stages.0.schedule.learning_rate_peak=2e-3",
                                        "stages.0.schedule.learning_rate_final=1e-3",
                                        "trainer.precision=F32"};
  overrides.insert(overrides.end(), parallel.begin(), parallel.end());
  for (const std::string& assignment : overrides)
    PLAIT_RETURN_IF_ERROR(ApplyOverride(assignment, recipe));
  recipe = Resolved(recipe);
  PLAIT_RETURN_IF_ERROR(ValidateRecipe(recipe, ranks));
  return recipe;
}

// The step's loss, before each update; on every rank.
absl::StatusOr<std::vector<double>> LossCurve(const std::shared_ptr<Communicator>& world,
                                              const Recipe& recipe, const DataSource& source,
                                              double gradient_error) {
  Execution execution{{.num_threads = world->size() == 1 ? 2 : 1}};
  PLAIT_ASSIGN_OR_RETURN(ModelRuntime runtime, ModelRuntime::Create(execution, recipe, world));
  PLAIT_RETURN_IF_ERROR(runtime.model->Initialize(*runtime.sharder, recipe.seed()));
  PLAIT_ASSIGN_OR_RETURN(const auto adamw, AdamW::Create(execution, recipe.optim().adamw(),
                                                         runtime.sharder->sharded()));
  ErringOptimizer erring(*adamw, runtime.sharder->sharded(), gradient_error);
  const PretrainingObjective objective;
  TrainingStep training(
      execution, runtime,
      gradient_error > 0 ? static_cast<Optimizer&>(erring) : static_cast<Optimizer&>(*adamw),
      objective, recipe.optim().gradient_clip_norm());
  const recipe::v1::Stage& stage = recipe.stages(0);
  const LearningRateSchedule schedule(stage.schedule(), stage.steps());
  const StageRows rows{.stage = 0,
                       .row_tokens = stage.row_tokens(),
                       .rows_per_step = stage.tokens_per_step() / stage.row_tokens()};
  std::vector<double> curve;
  for (int64_t step = 0; step < stage.steps(); ++step) {
    std::vector<Batch> own;
    for (int64_t leaf = runtime.mesh->data_parallel_rank(); leaf < rows.rows_per_step;
         leaf += runtime.mesh->data_parallel_size()) {
      Row row;
      PLAIT_RETURN_IF_ERROR(source.ReadRow(rows, step, leaf, &row));
      own.push_back(PackRows({&row, 1}, rows.row_tokens));
    }
    PLAIT_ASSIGN_OR_RETURN(const StepResult result, training.Run(own, schedule.At(step)));
    curve.push_back(result.loss());
  }
  return curve;
}

struct MixedLayout {
  const char* name;
  int ranks;
  std::vector<std::string> settings;
};

TEST(MixedLayoutTest, LossCurveOfTheDemoModelIsThatOfOneRank) {
  const TinyData data;
  ASSERT_OK_AND_ASSIGN(const auto source, Hdf5TokenSource::Open(data.path(), /*seed=*/1));
  ASSERT_OK_AND_ASSIGN(const Recipe recipe, DemoRecipe(data, {}, 1));
  ASSERT_OK_AND_ASSIGN(
      const std::vector<double> expected,
      LossCurve(MakeSingleRankCommunicator(), recipe, *source, /*gradient_error=*/0));
  ASSERT_OK_AND_ASSIGN(const std::vector<double> erring,
                       LossCurve(MakeSingleRankCommunicator(), recipe, *source, kGradientBound));
  ASSERT_EQ(expected.size(), static_cast<size_t>(kSteps));
  EXPECT_LT(expected.back(), 0.1 * expected.front());  // it did train
  double bound_of_all = 0;
  for (size_t step = 0; step < expected.size(); ++step)
    bound_of_all = std::max(bound_of_all, std::abs(erring[step] - expected[step]));
  EXPECT_LT(bound_of_all, 1e-4);  // and a layout that is wrong is far outside

  for (const MixedLayout& layout :
       {MixedLayout{"tensor 2 x shard 4, expert 2",
                    8,
                    {"parallel.tensor=2", "parallel.shard=4", "parallel.expert=2"}},
        MixedLayout{"context 2 x shard 2", 4, {"parallel.context=2", "parallel.shard=2"}}}) {
    SCOPED_TRACE(layout.name);
    ASSERT_OK_AND_ASSIGN(const Recipe mixed, DemoRecipe(data, layout.settings, layout.ranks));
    std::vector<double> found;
    ASSERT_OK(RunLocalRanks(
        layout.ranks, [&](const std::shared_ptr<Communicator>& world) -> absl::Status {
          PLAIT_ASSIGN_OR_RETURN(std::vector<double> curve,
                                 LossCurve(world, mixed, *source, /*gradient_error=*/0));
          if (world->rank() == 0) found = std::move(curve);
          return absl::OkStatus();
        }));
    ASSERT_EQ(found.size(), expected.size());
    double bound = 0, worst = 0;
    for (size_t step = 0; step < expected.size(); ++step) {
      bound = std::max(bound, std::abs(erring[step] - expected[step]));
      const double allowed = bound + kLossBound * expected[step];
      EXPECT_LE(std::abs(found[step] - expected[step]), allowed) << "step " << step;
      worst = std::max(worst, std::abs(found[step] - expected[step]));
    }
    std::printf("%s: loss %.4f to %.4f, worst difference %.1e, bound %.1e\n", layout.name,
                expected.front(), expected.back(), worst, bound);
  }
}

}  // namespace
}  // namespace plait
