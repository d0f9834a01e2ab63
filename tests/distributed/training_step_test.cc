// A training step on ranks that are processes gives every rank the bits that it gives ranks that
// are threads, whose equality with one rank tests/trainer/layout_check_test.cc shows.
#include "trainer/training_step.h"

#include <gtest/gtest.h>

#include <map>
#include <mutex>

#include "base/random.h"
#include "base/status_macros.h"
#include "data/sequence_packing.h"
#include "parallel/local_communicator.h"
#include "tests/support/ranked.h"
#include "tests/support/status_matchers.h"
#include "tests/support/tensor_matchers.h"
#include "tests/support/tiny_run.h"
#include "trainer/fresh_model.h"

namespace plait {
namespace {

constexpr int64_t kRowTokens = 12;
constexpr int kLeaves = 12;

Batch Leaf(int index) {
  std::vector<Row> rows;
  for (int r = 0; r < 2; ++r) {
    const RandomKey key(static_cast<uint64_t>(2 * index + r), RandomPurpose::kTest, "row");
    Row row;
    for (int64_t t = 0; t < kRowTokens; ++t) {
      const auto words = key.Words(static_cast<uint64_t>(t));
      row.tokens.push_back(static_cast<int32_t>(words[0] % kTinyVocabulary));
      row.targets.push_back(static_cast<int32_t>(words[1] % kTinyVocabulary));
      row.weights.push_back(t % 4 == 3 ? 0.0f : 1.0f);
    }
    row.document_starts = {0, 4};
    row.weights[3] = 0;
    rows.push_back(std::move(row));
  }
  return PackRows(rows, kRowTokens);
}

// One rank's result: its shards by name.
struct Outcome {
  std::map<std::string, Tensor> masters, gradients;
  StepResult step;
};

absl::StatusOr<Outcome> Step(const std::shared_ptr<Communicator>& world,
                             const recipe::v1::Recipe& recipe) {
  Execution execution{{.num_threads = 1}};
  PLAIT_ASSIGN_OR_RETURN(const auto fresh, FreshModel::Create(execution, recipe, world));
  std::vector<Batch> leaves;
  for (int i = 0; i < kLeaves; ++i) leaves.push_back(Leaf(i));
  Outcome outcome;
  PLAIT_ASSIGN_OR_RETURN(outcome.step, fresh->step->Run(OwnLeaves(*fresh->runtime.mesh, leaves),
                                                        /*learning_rate=*/1e-2));
  for (const ShardedParameter& parameter : fresh->runtime.sharder->sharded()) {
    outcome.masters[parameter.name] = parameter.master.Clone();
    outcome.gradients[parameter.name] = parameter.gradient.Clone();
  }
  return outcome;
}

void ExpectThreadsAndProcessesAgree(std::vector<std::string> overrides) {
  const std::shared_ptr<Communicator>& world = RankedWorld();
  overrides.push_back("optim.gradient_clip_norm=0.5");
  overrides.push_back("stages.0.tokens_per_step=384");
  overrides.push_back("stages.1.tokens_per_step=768");
  const recipe::v1::Recipe recipe =
      ResolvedRecipe(TinyRecipeText("unused"), overrides, world->size());
  ASSERT_OK_AND_ASSIGN(const Outcome processes, Step(world, recipe));
  std::mutex mutex;
  Outcome threads;
  ASSERT_OK(
      RunLocalRanks(world->size(), [&](const std::shared_ptr<Communicator>& local) -> absl::Status {
        PLAIT_ASSIGN_OR_RETURN(Outcome outcome, Step(local, recipe));
        const std::lock_guard lock(mutex);
        if (local->rank() == world->rank()) threads = std::move(outcome);
        return absl::OkStatus();
      }));
  ASSERT_FALSE(processes.masters.empty());
  ASSERT_EQ(processes.masters.size(), threads.masters.size());
  for (const auto& [name, master] : threads.masters) {
    ExpectSameBits(name, processes.masters.at(name), master);
    ExpectSameBits(name + " gradient", processes.gradients.at(name), threads.gradients.at(name));
  }
  EXPECT_EQ(processes.step.loss(), threads.step.loss());
  EXPECT_EQ(processes.step.gradient_norm, threads.step.gradient_norm);
}

std::string Ranks() { return std::to_string(RankedWorld()->size()); }

TEST(DistributedTrainingStepTest, ShardsThroughASharedWindow) {
  ExpectThreadsAndProcessesAgree({"parallel.shard=" + Ranks()});
}

TEST(DistributedTrainingStepTest, ShardsThroughMessages) {
  ExpectThreadsAndProcessesAgree({"parallel.shard=" + Ranks(), "parallel.transport=MESSAGES"});
}

TEST(DistributedTrainingStepTest, ReplicatesInBf16) {
  ExpectThreadsAndProcessesAgree(
      {"parallel.shard=1", "parallel.replicate=" + Ranks(), "trainer.precision=BF16"});
}

TEST(DistributedTrainingStepTest, ReducesCanonically) {
  ExpectThreadsAndProcessesAgree(
      {"parallel.shard=" + Ranks(), "parallel.reduction=CANONICAL", "parallel.transport=MESSAGES"});
}

TEST(DistributedTrainingStepTest, DealsExpertsInWaves) {
  ExpectThreadsAndProcessesAgree({"parallel.shard=" + Ranks(), "parallel.expert=" + Ranks(),
                                  "model.experts.experts=12", "parallel.expert_wave_tokens=5"});
}

// Messages of 12 KB: more than MPI sends before the receiver asks for them.
const std::vector<std::string> kWideUntied = {"model.tied_embeddings=false", "model.model_dim=128"};

TEST(DistributedTrainingStepTest, PassesMicrobatchesThroughStages) {
  for (const int chunks : {1, RankedWorld()->size() == 4 ? 1 : 2}) {
    std::vector<std::string> overrides = kWideUntied;
    overrides.push_back("parallel.shard=1");
    overrides.push_back("parallel.pipeline=" + Ranks());
    overrides.push_back("parallel.pipeline_chunks=" + std::to_string(chunks));
    ExpectThreadsAndProcessesAgree(overrides);
  }
}

TEST(DistributedTrainingStepTest, PassesMicrobatchesThroughStagesOfSeveralRanks) {
  if (RankedWorld()->size() != 4) GTEST_SKIP() << "for 2 x 2 ranks";
  for (const char* transport : {"AUTO", "MESSAGES"}) {
    for (const char* chunks : {"1", "3"}) {
      std::vector<std::string> overrides = kWideUntied;
      overrides.push_back("parallel.pipeline=2");
      overrides.push_back(std::string("parallel.pipeline_chunks=") + chunks);
      overrides.push_back(std::string("parallel.transport=") + transport);
      ExpectThreadsAndProcessesAgree(overrides);
    }
  }
}

}  // namespace
}  // namespace plait
