// Steps of training on a device equal the CPU's: whatever the model does between kernels is the
// same on both. The device is the emulated one, whose memory the host cannot touch.

#include <cmath>
#include <string>
#include <utility>
#include <vector>

#include "base/status_macros.h"
#include "kernels/cuda/runtime.h"
#include "recipes/schema/recipe.pb.h"
#include "tests/support/status_matchers.h"
#include "tests/support/tensor_matchers.h"
#include "tests/support/tiny_run.h"
#include "trainer/fresh_model.h"
#include "trainer/random_batches.h"

namespace plait {
namespace {

struct Outcome {
  std::vector<StepResult> steps;
  std::vector<std::string> names;
  std::vector<Tensor> masters, gradients;
};

absl::StatusOr<Outcome> Train(Execution& execution, const recipe::v1::Recipe& recipe, int steps) {
  PLAIT_ASSIGN_OR_RETURN(const auto fresh, FreshModel::Create(execution, recipe));
  Outcome outcome;
  for (int i = 0; i < steps; ++i) {
    const std::vector<Batch> batches = RandomStep(recipe, /*stage=*/0);
    PLAIT_ASSIGN_OR_RETURN(StepResult result, fresh->step->Run(batches, 1e-2));
    outcome.steps.push_back(std::move(result));
  }
  for (const ShardedParameter& parameter : fresh->runtime.sharder->sharded()) {
    outcome.names.push_back(parameter.name);
    PLAIT_ASSIGN_OR_RETURN(Tensor master, execution.ToHost(parameter.master));
    PLAIT_ASSIGN_OR_RETURN(Tensor gradient, execution.ToHost(parameter.gradient));
    outcome.masters.push_back(master.Clone());
    outcome.gradients.push_back(gradient.Clone());
  }
  return outcome;
}

// relative: of a tensor's norm.
void ExpectEqualSteps(const recipe::v1::Recipe& recipe, int steps, double relative) {
  cuda::AllowEmulation();
  ASSERT_OK_AND_ASSIGN(auto runtime, cuda::Runtime(0));
  Execution cpu({.num_threads = 1});
  Execution device(
      {.device = {DeviceKind::kCuda, 0}, .runtime = std::move(runtime), .num_threads = 1});
  ASSERT_OK_AND_ASSIGN(const Outcome expected, Train(cpu, recipe, steps));
  ASSERT_OK_AND_ASSIGN(const Outcome found, Train(device, recipe, steps));
  for (int i = 0; i < steps; ++i) {
    const double bound = relative * std::abs(expected.steps[i].loss());
    EXPECT_NEAR(found.steps[i].loss(), expected.steps[i].loss(), bound) << "step " << i;
    EXPECT_NEAR(found.steps[i].gradient_norm, expected.steps[i].gradient_norm,
                10 * relative * expected.steps[i].gradient_norm);
    EXPECT_NEAR(found.steps[i].activation_loss, expected.steps[i].activation_loss, bound);
    EXPECT_NEAR(found.steps[i].balance_loss, expected.steps[i].balance_loss, bound);
    EXPECT_NEAR(found.steps[i].z_loss, expected.steps[i].z_loss, bound);
    ASSERT_EQ(found.steps[i].watch.experts.size(), expected.steps[i].watch.experts.size());
    for (size_t e = 0; e < found.steps[i].watch.experts.size(); ++e) {
      EXPECT_EQ(found.steps[i].watch.experts[e].tokens, expected.steps[i].watch.experts[e].tokens);
    }
  }
  for (size_t p = 0; p < expected.names.size(); ++p) {
    ExpectNormClose("gradient of " + expected.names[p], found.gradients[p], expected.gradients[p],
                    relative);
    ExpectNormClose(expected.names[p], found.masters[p], expected.masters[p], relative);
  }
}

// As for layouts that differ: norms of differences over norms.
constexpr double kF64Bound = 1e-11;

TEST(DeviceStepTest, HybridModelInF64) {
  ExpectEqualSteps(ResolvedRecipe(TinyRecipeText("unused"), {"trainer.precision=F64"}), 2,
                   kF64Bound);
}

TEST(DeviceStepTest, HybridModelWithEveryLossAndRecomputation) {
  std::string text = TinyRecipeText("unused");
  const std::string loss = "activation_loss {";
  text.insert(text.find(loss) + loss.size(), " sites: [BLOCK_OUTPUT, EXPERT_OUTPUT, RESIDUAL]");
  ExpectEqualSteps(ResolvedRecipe(text, {"trainer.precision=F64", "trainer.recomputation=BLOCKS",
                                         "model.tied_embeddings=false"}),
                   2, kF64Bound);
}

TEST(DeviceStepTest, LlamaInF64) {
  ExpectEqualSteps(ResolvedRecipe(TinyLlamaRecipeText("unused"), {"trainer.precision=F64"}), 2,
                   kF64Bound);
}

TEST(DeviceStepTest, CanonicalSumsInF64) {
  ExpectEqualSteps(ResolvedRecipe(TinyRecipeText("unused"),
                                  {"trainer.precision=F64", "parallel.reduction=CANONICAL"}),
                   2, kF64Bound);
}

TEST(DeviceStepTest, HybridModelInF32) {
  ExpectEqualSteps(ResolvedRecipe(TinyRecipeText("unused"), {"trainer.precision=F32"}), 1, 2e-5);
}

}  // namespace
}  // namespace plait
