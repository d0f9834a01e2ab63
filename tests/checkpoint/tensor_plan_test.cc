#include "checkpoint/tensor_plan.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <numeric>
#include <random>
#include <set>

#include "absl/strings/str_cat.h"
#include "tests/support/status_matchers.h"

namespace plait {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr auto kBf16 = SafetensorsDType::kBf16;
constexpr char kLayer[] = "model.layers.1.feed_forward";

// Two experts of hidden width 4 in a model of width 3.
const std::vector<LogicalTensor> kWanted = {
    {"model.embed_tokens.weight", {10, 3}},
    {absl::StrCat(kLayer, ".router.weight"), {2, 3}},
    {absl::StrCat(kLayer, ".experts.gate_up_proj"), {2, 8, 3}},
    {absl::StrCat(kLayer, ".experts.down_proj"), {2, 3, 4}},
    {"lm_head.weight", {10, 3}},
};

std::string Expert(int expert, const std::string& kind) {
  return absl::StrCat(kLayer, ".experts.", expert, ".", kind, "_proj.weight");
}

std::vector<SourceTensor> FusedSources() {
  std::vector<SourceTensor> sources;
  for (const LogicalTensor& tensor : kWanted) {
    sources.push_back({tensor.name, kBf16, {}});
    const auto sizes = tensor.shape.sizes();
    sources.back().shape.assign(sizes.begin(), sizes.end());
  }
  return sources;
}

std::vector<SourceTensor> PerExpertSources() {
  std::vector<SourceTensor> sources = FusedSources();
  sources.erase(sources.begin() + 2, sources.begin() + 4);
  for (const int expert : {1, 0}) {
    sources.push_back({Expert(expert, "down"), kBf16, {3, 4}});
    sources.push_back({Expert(expert, "up"), kBf16, {4, 3}});
    sources.push_back({Expert(expert, "gate"), kBf16, {4, 3}});
  }
  return sources;
}

SourceTensor& Named(std::vector<SourceTensor>& sources, const std::string& name) {
  for (SourceTensor& source : sources) {
    if (source.name == name) return source;
  }
  ADD_FAILURE() << name;
  return sources[0];
}

const PlannedTensor& Target(const TensorPlan& plan, const std::string& name) {
  for (const PlannedTensor& target : plan.targets) {
    if (target.name == name) return target;
  }
  ADD_FAILURE() << name;
  return plan.targets[0];
}

void ExpectRefused(const std::vector<SourceTensor>& sources, const std::string& message) {
  EXPECT_THAT(PlanTensors(kWanted, sources, {}).status(),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr(message)));
}

// Every element of every source is used once, in order, and every target is made whole.
void ExpectUsesEachElementOnce(const TensorPlan& plan, const std::vector<SourceTensor>& sources) {
  std::vector<int64_t> next(sources.size());
  for (const PlannedTensor& target : plan.targets) {
    int64_t made = 0;
    for (const TensorSegment& segment : target.segments) {
      EXPECT_EQ(segment.source_begin, next[segment.source]) << target.name;
      next[segment.source] += segment.elements;
      made += segment.elements;
    }
    EXPECT_EQ(made, target.shape.num_elements()) << target.name;
  }
  for (size_t i = 0; i < sources.size(); ++i) {
    int64_t elements = 1;
    for (const int64_t size : sources[i].shape) elements *= size;
    EXPECT_EQ(next[i], elements) << sources[i].name;
  }
}

TEST(TensorPlanTest, FusesExpertsGateBeforeUp) {
  const std::vector<SourceTensor> sources = PerExpertSources();
  ASSERT_OK_AND_ASSIGN(const TensorPlan plan, PlanTensors(kWanted, sources, {}));
  ASSERT_EQ(plan.targets.size(), kWanted.size());
  for (size_t i = 0; i < kWanted.size(); ++i) {
    EXPECT_EQ(plan.targets[i].name, kWanted[i].name);
    EXPECT_EQ(plan.targets[i].shape, kWanted[i].shape);
    EXPECT_EQ(plan.targets[i].dtype, DType::kBf16);
  }
  // Sources 3 to 8: down, up, gate of expert 1, then of expert 0.
  EXPECT_THAT(plan.targets[2].segments,
              ElementsAre(TensorSegment{8, 0, 12}, TensorSegment{7, 0, 12}, TensorSegment{5, 0, 12},
                          TensorSegment{4, 0, 12}));
  EXPECT_THAT(plan.targets[3].segments,
              ElementsAre(TensorSegment{6, 0, 12}, TensorSegment{3, 0, 12}));
  ExpectUsesEachElementOnce(plan, sources);
}

TEST(TensorPlanTest, SplitsExpertsGateBeforeUp) {
  const std::vector<SourceTensor> sources = FusedSources();
  ASSERT_OK_AND_ASSIGN(const TensorPlan plan,
                       PlanTensors(kWanted, sources, {.target = ExpertLayout::kPerExpert}));
  EXPECT_EQ(plan.targets.size(), 3u + 6u);
  EXPECT_THAT(Target(plan, Expert(0, "gate")).segments, ElementsAre(TensorSegment{2, 0, 12}));
  EXPECT_THAT(Target(plan, Expert(0, "up")).segments, ElementsAre(TensorSegment{2, 12, 12}));
  EXPECT_THAT(Target(plan, Expert(1, "gate")).segments, ElementsAre(TensorSegment{2, 24, 12}));
  EXPECT_THAT(Target(plan, Expert(1, "down")).segments, ElementsAre(TensorSegment{3, 12, 12}));
  EXPECT_EQ(Target(plan, Expert(1, "down")).shape, (Shape{3, 4}));
  ExpectUsesEachElementOnce(plan, sources);
}

TEST(TensorPlanTest, TakesFusedExpertsAsTheyAre) {
  ASSERT_OK_AND_ASSIGN(const TensorPlan plan, PlanTensors(kWanted, FusedSources(), {}));
  for (size_t i = 0; i < kWanted.size(); ++i) {
    EXPECT_THAT(plan.targets[i].segments,
                ElementsAre(TensorSegment{i, 0, kWanted[i].shape.num_elements()}));
  }
}

TEST(TensorPlanTest, IgnoresOnlyRotaryBuffers) {
  std::vector<SourceTensor> sources = FusedSources();
  sources.push_back({"model.layers.0.self_attn.rotary_emb.inv_freq", SafetensorsDType::kF32, {4}});
  ASSERT_OK_AND_ASSIGN(const TensorPlan plan, PlanTensors(kWanted, sources, {}));
  EXPECT_THAT(plan.ignored, ElementsAre(5u));
  sources.push_back({"model.layers.0.self_attn.q_proj.bias", kBf16, {4}});
  ExpectRefused(sources, "model.layers.0.self_attn.q_proj.bias: is no tensor of this model");
}

TEST(TensorPlanTest, AcceptsATiedHeadThatEqualsTheEmbedding) {
  const std::vector<LogicalTensor> tied(kWanted.begin(), kWanted.end() - 1);
  std::vector<SourceTensor> sources = FusedSources();
  ASSERT_OK_AND_ASSIGN(const TensorPlan plan, PlanTensors(tied, sources, {}));
  EXPECT_THAT(plan.copies, ElementsAre(TensorPlan::Copy{4, 0}));
  sources[4].shape = {3, 10};
  EXPECT_THAT(PlanTensors(tied, sources, {}),
              StatusIs(absl::StatusCode::kFailedPrecondition,
                       HasSubstr("lm_head.weight: is BF16 [3, 10], the embedding that it is tied "
                                 "to BF16 [10, 3]")));
}

TEST(TensorPlanTest, RefusesWhatIsMissing) {
  std::vector<SourceTensor> sources = FusedSources();
  sources.erase(sources.begin());
  ExpectRefused(sources, "model.embed_tokens.weight: missing");
  sources = FusedSources();
  sources.erase(sources.begin() + 2);
  ExpectRefused(sources, ".experts.gate_up_proj: missing, fused and per expert (");
  for (const char* kind : {"gate", "up", "down"}) {
    sources = PerExpertSources();
    std::erase_if(sources, [&](const SourceTensor& s) { return s.name == Expert(1, kind); });
    ExpectRefused(sources, absl::StrCat(Expert(1, kind), ": missing"));
  }
}

TEST(TensorPlanTest, RefusesOtherShapes) {
  std::vector<SourceTensor> sources = PerExpertSources();
  Named(sources, Expert(0, "down")).shape = {4, 3};
  ExpectRefused(sources, absl::StrCat(Expert(0, "down"), ": expected shape [3, 4], found [4, 3]"));
  sources = PerExpertSources();
  Named(sources, "lm_head.weight").shape = {30};
  ExpectRefused(sources, "lm_head.weight: expected shape [10, 3], found [30]");
  sources = FusedSources();
  sources[2].shape = {2, 3, 8};
  ExpectRefused(sources, ".experts.gate_up_proj: expected shape [2, 8, 3], found [2, 3, 8]");
}

TEST(TensorPlanTest, RefusesWhatIsThereTwice) {
  std::vector<SourceTensor> sources = FusedSources();
  sources.push_back(sources[1]);
  ExpectRefused(sources, "model.layers.1.feed_forward.router.weight: is there twice");
  sources = FusedSources();
  sources.push_back({Expert(1, "up"), kBf16, {4, 3}});
  ExpectRefused(sources,
                absl::StrCat(".experts.gate_up_proj: is there twice, fused and per expert (",
                             Expert(1, "up"), ")"));
}

TEST(TensorPlanTest, RefusesAnExpertTooMany) {
  std::vector<SourceTensor> sources = PerExpertSources();
  sources.push_back({Expert(2, "up"), kBf16, {4, 3}});
  ExpectRefused(sources, absl::StrCat(Expert(2, "up"), ": is no tensor of this model"));
}

TEST(TensorPlanTest, RefusesElementTypesThatAreNotStored) {
  for (const SafetensorsDType dtype : {SafetensorsDType::kF64, SafetensorsDType::kF8E4M3,
                                       SafetensorsDType::kI8, SafetensorsDType::kU16}) {
    std::vector<SourceTensor> sources = FusedSources();
    sources[0].dtype = dtype;
    ExpectRefused(sources, absl::StrCat("model.embed_tokens.weight: expected F32, BF16 or F16, "
                                        "found ",
                                        Name(dtype)));
  }
}

TEST(TensorPlanTest, KeepsEachDtypeAndRefusesToMixThemInOneTensor) {
  std::vector<SourceTensor> sources = PerExpertSources();
  Named(sources, "lm_head.weight").dtype = SafetensorsDType::kF32;
  ASSERT_OK_AND_ASSIGN(const TensorPlan plan, PlanTensors(kWanted, sources, {}));
  EXPECT_EQ(plan.targets[4].dtype, DType::kF32);
  EXPECT_EQ(plan.targets[0].dtype, DType::kBf16);
  Named(sources, Expert(1, "down")).dtype = SafetensorsDType::kF16;
  ExpectRefused(sources,
                absl::StrCat(Expert(1, "down"), ": is F16, ", Expert(0, "down"), " is BF16"));
  ASSERT_OK_AND_ASSIGN(const TensorPlan wide,
                       PlanTensors(kWanted, sources, {.dtype = DType::kF32}));
  for (const PlannedTensor& target : wide.targets) EXPECT_EQ(target.dtype, DType::kF32);
}

TEST(TensorPlanTest, TellsEveryProblemAtOnceInOneLine) {
  std::vector<SourceTensor> sources = PerExpertSources();
  sources.erase(sources.begin());
  Named(sources, "lm_head.weight").shape = {3, 10};
  sources.push_back({"extra\n", kBf16, {1}});
  EXPECT_THAT(PlanTensors(kWanted, sources, {}),
              StatusIs(absl::StatusCode::kFailedPrecondition,
                       AllOf(HasSubstr("model.embed_tokens.weight: missing; "),
                             HasSubstr("lm_head.weight: expected shape"),
                             HasSubstr("; extra\\n: is"), ::testing::Not(HasSubstr("\n")))));
  EXPECT_THAT(PlanTensors(kWanted, {}, {}), StatusIs(absl::StatusCode::kFailedPrecondition,
                                                     HasSubstr("lm_head.weight: missing")));
  std::vector<SourceTensor> many = FusedSources();
  for (int i = 0; i < 30; ++i) many.push_back({absl::StrCat("extra.", i), kBf16, {1}});
  ExpectRefused(many, "extra.19: is no tensor of this model; and 10 more");
}

// Any change of the names or shapes is refused: nothing is taken for something else.
TEST(TensorPlanTest, EveryMutationOfTheSourcesIsRefused) {
  std::mt19937_64 random(7);
  const auto below = [&random](size_t end) { return static_cast<size_t>(random() % end); };
  for (int i = 0; i < 2000; ++i) {
    const bool fused = i % 2 == 0;
    std::vector<SourceTensor> sources = fused ? FusedSources() : PerExpertSources();
    SourceTensor& one = sources[below(sources.size())];
    switch (i / 2 % 5) {
      case 0:
        one.name.push_back('x');
        break;
      case 1:
        one.shape[below(one.shape.size())] += 1;
        break;
      case 2:
        one.shape.push_back(1);
        break;
      case 3:
        std::reverse(one.shape.begin(), one.shape.end());
        break;
      default:
        std::swap(one, sources.back());
        sources.pop_back();
    }
    EXPECT_FALSE(PlanTensors(kWanted, sources, {}).ok()) << one.name;
  }
}

}  // namespace
}  // namespace plait
