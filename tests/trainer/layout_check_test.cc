// Every layout of up to eight ranks learns what one rank learns, and a check that fails says where.
#include "trainer/layout_check.h"

#include <gtest/gtest.h>

#include <cmath>
#include <map>
#include <set>
#include <tuple>

#include "recipes/schema/recipe.pb.h"
#include "tests/support/status_matchers.h"

namespace plait {
namespace {

using ::testing::HasSubstr;

constexpr CheckedModel kModels[] = {CheckedModel::kJamba, CheckedModel::kTiedJamba,
                                    CheckedModel::kLlama};

// One rank's step, made once for the whole program.
const CheckedStep& OneRank(CheckedModel model, DType precision, int leaves) {
  static std::map<std::tuple<CheckedModel, DType, int>, CheckedStep> steps;
  const auto key = std::make_tuple(model, precision, leaves);
  if (const auto found = steps.find(key); found != steps.end()) return found->second;
  absl::StatusOr<CheckedStep> step = StepOnOneRank(model, precision, leaves);
  if (!step.ok()) std::fprintf(stderr, "%s\n", step.status().ToString().c_str());
  PLAIT_CHECK(step.ok());
  return steps[key] = *std::move(step);
}

class LayoutCheckTest : public ::testing::TestWithParam<size_t> {};

std::string TestName(const ::testing::TestParamInfo<size_t>& tested) {
  std::string name;
  bool upper = true;
  for (const char c : CheckedLayouts()[tested.param].name()) {
    const bool word = std::isalnum(static_cast<unsigned char>(c)) != 0;
    if (word) name += upper ? static_cast<char>(std::toupper(c)) : c;
    upper = !word;
  }
  return name;
}

TEST_P(LayoutCheckTest, LearnsWhatOneRankLearns) {
  const CheckedLayout& layout = CheckedLayouts()[GetParam()];
  for (const CheckedModel model : layout.models) {
    for (const DType precision : {DType::kF64, DType::kF32, DType::kBf16}) {
      SCOPED_TRACE(std::string(Name(model)) + " " + std::string(Name(precision)));
      ASSERT_OK_AND_ASSIGN(const std::vector<LayoutDifference> differences,
                           CompareWithOneRank(model, precision, layout,
                                              OneRank(model, precision, NumCheckedLeaves(layout))));
      EXPECT_GT(differences.size(), 80u);
      for (const LayoutDifference& difference : differences)
        EXPECT_LE(difference.error, difference.bound) << difference.tensor;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Layouts, LayoutCheckTest,
                         ::testing::Range(size_t{0}, CheckedLayouts().size()), TestName);

// What is compared has a size: a gradient of zeros would equal any other that was forgotten.
TEST(CheckedModelsTest, EveryGradientHasASize) {
  for (const CheckedModel model : kModels) {
    for (const int leaves : {8, 12}) {
      const CheckedStep& step = OneRank(model, DType::kF64, leaves);
      for (const auto& [name, gradient] : step.gradients) {
        double norm = 0;
        for (const double value : gradient.values<double>()) norm += value * value;
        EXPECT_GT(std::sqrt(norm), 1e-4) << Name(model) << " " << name;
      }
      EXPECT_GT(step.result.language_model_loss, 1.0);
      EXPECT_GT(step.result.activation_loss, 0.1);
      if (model == CheckedModel::kLlama) continue;
      EXPECT_GT(step.result.balance_loss, 0.1);
      EXPECT_GT(step.result.z_loss, 0.1);
      EXPECT_GT(step.routing_gap, 1e-4);
      for (const ExpertActivations& layer : step.result.watch.experts) {
        for (const int64_t tokens : layer.tokens) EXPECT_GT(tokens, 0) << layer.name;
      }
    }
  }
}

TEST(CheckedLayoutsTest, AreManyDistinctAndHaveEveryAxis) {
  std::set<std::string> names;
  std::set<int> pipeline, replicate, shard, context, tensor, expert;
  for (const CheckedLayout& layout : CheckedLayouts()) {
    EXPECT_TRUE(names.insert(layout.name()).second) << layout.name();
    EXPECT_GT(layout.ranks(), 1) << layout.name();
    EXPECT_LE(layout.ranks(), 8) << layout.name();
    EXPECT_EQ(NumCheckedLeaves(layout) % layout.data_parallel(), 0) << layout.name();
    for (const CheckedModel model : layout.models)
      EXPECT_OK(CheckedRecipe(model, DType::kF64, layout).status()) << layout.name();
    pipeline.insert(layout.sizes.pipeline);
    replicate.insert(layout.sizes.replicate);
    shard.insert(layout.sizes.shard);
    context.insert(layout.sizes.context);
    tensor.insert(layout.sizes.tensor);
    expert.insert(layout.sizes.expert);
  }
  EXPECT_GE(names.size(), 24u);
  for (const std::set<int>& sizes : {pipeline, shard, context, tensor, expert}) {
    EXPECT_TRUE(sizes.contains(1) && sizes.contains(2) && sizes.contains(4));
  }
  EXPECT_TRUE(replicate.contains(2));
}

CheckedLayout LayoutNamed(const std::string& name) {
  for (const CheckedLayout& layout : CheckedLayouts()) {
    if (layout.name() == name) return layout;
  }
  ADD_FAILURE() << "no layout " << name;
  return {};
}

TEST(LayoutFaultTest, IsFoundAndNamed) {
  for (const std::string layout_name : {"shard 2", "replicate 2", "shard 4, messages"}) {
    const CheckedLayout layout = LayoutNamed(layout_name);
    const CheckedStep& one_rank =
        OneRank(CheckedModel::kJamba, DType::kF64, NumCheckedLeaves(layout));
    for (const std::string tensor :
         {"lm_head.weight", "model.layers.0.mamba.A_log",
          "model.layers.0.feed_forward.router.weight", "model.layers.1.self_attn.k_proj.weight",
          "model.final_layernorm.weight"}) {
      SCOPED_TRACE(layout_name + " " + tensor);
      ASSERT_OK_AND_ASSIGN(const std::vector<LayoutDifference> differences,
                           CompareWithOneRank(CheckedModel::kJamba, DType::kF64, layout, one_rank,
                                              {.tensor = tensor}));
      const LayoutDifference& worst = WorstOf(differences);
      EXPECT_EQ(worst.tensor, tensor);
      EXPECT_FALSE(worst.ok());
      EXPECT_GT(worst.error, 1e-4);
      EXPECT_LT(worst.error, 1.01e-2);
      for (const LayoutDifference& difference : differences)
        EXPECT_EQ(difference.ok(), difference.tensor != tensor) << difference.tensor;
    }
  }
}

// Layouts that round like one rank show a hundredth, the others what is above their roundings.
TEST(LayoutFaultTest, IsFoundAndNamedAtBFloat16) {
  for (const auto& [layout_name, factor] : {std::pair("shard 2", 1.01),
                                            {"pipeline 2", 1.01},
                                            {"tensor 2", 2.0},
                                            {"tensor 4", 2.0},
                                            {"context 2", 2.0},
                                            {"shard 2, expert 2", 2.0},
                                            {"shard 2 x tensor 2", 2.0}}) {
    const CheckedLayout layout = LayoutNamed(layout_name);
    const CheckedStep& one_rank =
        OneRank(CheckedModel::kJamba, DType::kBf16, NumCheckedLeaves(layout));
    for (const std::string tensor :
         {"lm_head.weight", "model.layers.0.mamba.A_log",
          "model.layers.0.feed_forward.router.weight", "model.layers.1.self_attn.k_proj.weight",
          "model.final_layernorm.weight"}) {
      SCOPED_TRACE(std::string(layout_name) + " " + tensor);
      ASSERT_OK_AND_ASSIGN(const std::vector<LayoutDifference> differences,
                           CompareWithOneRank(CheckedModel::kJamba, DType::kBf16, layout, one_rank,
                                              {.tensor = tensor, .factor = factor}));
      EXPECT_EQ(WorstOf(differences).tensor, tensor);
      for (const LayoutDifference& difference : differences)
        EXPECT_EQ(difference.ok(), difference.tensor != tensor) << difference.tensor;
    }
  }
}

TEST(LayoutFaultTest, InATensorThatIsNotThereIsAnError) {
  const CheckedStep& one_rank = OneRank(CheckedModel::kLlama, DType::kF32, 8);
  EXPECT_THAT(
      CompareWithOneRank(CheckedModel::kLlama, DType::kF32, LayoutNamed("shard 2"), one_rank,
                         {.tensor = "model.layers.9.mamba.D"})
          .status(),
      StatusIs(absl::StatusCode::kNotFound, HasSubstr("no tensor 'model.layers.9.mamba.D'")));
}

// What the bound at bf16 is made of, on the rank it was measured on: the step's error is within
// what its microbatches' errors say, and bf16 is visible in all of them.
TEST(RoundingReferenceTest, OneRanksErrorIsWhatItsMicrobatchesSay) {
  for (const CheckedModel model : kModels) {
    for (const int leaves : {8, 12}) {
      const CheckedStep& step = OneRank(model, DType::kBf16, leaves);
      const RoundingReference& rounding = *step.rounding;
      EXPECT_EQ(rounding.leaves.size(), static_cast<size_t>(leaves));
      for (const StepQuantity& exact : rounding.exact) {
        if (exact.kind != QuantityKind::kVector) continue;
        SCOPED_TRACE(std::string(Name(model)) + " " + exact.name);
        double difference = 0, squares = 0;
        for (size_t i = 0; i < exact.values.size(); ++i) {
          const double found = step.gradients.at(exact.name).values<double>()[i];
          difference += (found - exact.values[i]) * (found - exact.values[i]);
          squares += exact.values[i] * exact.values[i];
        }
        const double allowed = rounding.Allowed(exact.name, 0, std::sqrt(squares), /*variance=*/1);
        EXPECT_LE(std::sqrt(difference), allowed);
        EXPECT_GT(std::sqrt(difference), allowed / 10);
        // Half a gradient that is missing is more than that.
        EXPECT_LT(allowed, 0.5 * std::sqrt(squares));
      }
    }
  }
}

// With weights of almost zero all experts are as probable.
TEST(RoundingReferenceTest, RoutingThatCannotBeMadeClearIsRefused) {
  ASSERT_OK_AND_ASSIGN(auto rounded, CheckedRecipe(CheckedModel::kJamba, DType::kBf16, {}));
  ASSERT_OK_AND_ASSIGN(auto exact, CheckedRecipe(CheckedModel::kJamba, DType::kF64, {}));
  rounded.mutable_model()->set_initializer_range(1e-6);
  exact.mutable_model()->set_initializer_range(1e-6);
  EXPECT_THAT(MeasureRounding(rounded, exact, {CheckedLeaf(0)}).status(),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("clear experts at bf16")));
}

// Other microbatches, another precision: nothing else is equal enough.
TEST(LayoutCheckBoundsTest, AStepOnOtherTokensOrInAnotherPrecisionIsNotEqual) {
  const CheckedLayout layout = LayoutNamed("shard 2");
  for (const DType precision : {DType::kF64, DType::kBf16}) {
    CheckedStep one_rank = OneRank(CheckedModel::kLlama, precision, 8);
    std::swap(one_rank.leaves[0], one_rank.leaves[1]);
    ASSERT_OK_AND_ASSIGN(const auto same_tokens,
                         CompareWithOneRank(CheckedModel::kLlama, precision, layout, one_rank));
    EXPECT_TRUE(WorstOf(same_tokens).ok()) << WorstOf(same_tokens).tensor;
    one_rank.leaves[1] = CheckedLeaf(8);  // the same documents and weights
    ASSERT_OK_AND_ASSIGN(const auto other_tokens,
                         CompareWithOneRank(CheckedModel::kLlama, precision, layout, one_rank));
    EXPECT_FALSE(WorstOf(other_tokens).ok());
    EXPECT_GT(WorstOf(other_tokens).error, 1e-2);
  }
  ASSERT_OK_AND_ASSIGN(const auto other_precision,
                       CompareWithOneRank(CheckedModel::kLlama, DType::kF64, layout,
                                          OneRank(CheckedModel::kLlama, DType::kF32, 8)));
  EXPECT_GT(WorstOf(other_precision).error, 1e-9);
  EXPECT_LT(WorstOf(other_precision).error, 1e-4);
}

}  // namespace
}  // namespace plait
