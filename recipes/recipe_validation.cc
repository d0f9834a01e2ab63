#include "recipes/recipe_validation.h"

#include <google/protobuf/descriptor.h>

#include <algorithm>
#include <limits>
#include <map>

#include "absl/strings/str_cat.h"
#include "recipes/field_names.h"
#include "recipes/problem_list.h"
#include "recipes/recipe_defaults.h"

namespace plait {
namespace {

constexpr int64_t kMaxThreads = 1024;
using google::protobuf::FieldDescriptor;
using google::protobuf::Message;
using google::protobuf::Reflection;
using recipe::v1::Recipe;
using recipe::v1::Schedule;
using recipe::v1::Stage;

constexpr int64_t kMaxSteps = std::numeric_limits<uint32_t>::max();      // random counters
constexpr int64_t kMaxMicrobatch = std::numeric_limits<int32_t>::max();  // document offsets

// Numbers that are not finite and enum values without a name, anywhere.
void CheckScalars(const Message& message, const std::string& path, ProblemList& problems) {
  const Reflection& reflection = *message.GetReflection();
  std::vector<const FieldDescriptor*> fields;
  reflection.ListFields(message, &fields);
  for (const FieldDescriptor* field : fields) {
    const int count = field->is_repeated() ? reflection.FieldSize(message, field) : 1;
    for (int i = 0; i < count; ++i) {
      const int index = field->is_repeated() ? i : -1;
      const std::string name = FieldPath(path, field, index);
      if (field->cpp_type() == FieldDescriptor::CPPTYPE_MESSAGE) {
        CheckScalars(field->is_repeated() ? reflection.GetRepeatedMessage(message, field, i)
                                          : reflection.GetMessage(message, field),
                     name, problems);
        continue;
      }
      const ScalarRule scalar = BrokenScalarRule(message, field, index);
      if (!scalar.rule.empty()) problems.Add(name, scalar.value, scalar.rule);
    }
  }
}

// Returns the data-parallel size (replicate x shard), 0 where it is not known.
int64_t CheckMesh(const recipe::v1::Parallel& parallel, int64_t world_size, ProblemList& problems) {
  bool valid = true;
  const auto check = [&](const char* axis, int64_t size) {
    valid &= problems.Between(absl::StrCat("parallel.", axis), size, 1, kMaxAxis);
  };
  check("replicate", parallel.replicate());
  if (parallel.has_shard()) check("shard", parallel.shard());
  check("context", parallel.context());
  check("tensor", parallel.tensor());
  check("pipeline", parallel.pipeline());
  check("pipeline_chunks", parallel.pipeline_chunks());
  check("expert", parallel.expert());
  if (parallel.has_expert_wave_tokens()) {
    problems.Between("parallel.expert_wave_tokens", parallel.expert_wave_tokens(), 1,
                     kMaxMicrobatch);
  }
  if (parallel.expert() > 1 && parallel.reduction() == recipe::v1::Parallel::CANONICAL) {
    problems.Add("parallel.expert", parallel.expert(),
                 "is not built for parallel.reduction = CANONICAL; use 1, or DEFAULT");
  }
  if (!valid) return 0;

  int64_t shard = parallel.shard();  // 0 where it is not known
  if (world_size != kAnyWorldSize) {
    // The product grows by one axis at a time and stops above every world: it cannot overflow.
    int64_t product = 1;
    for (const int64_t size : {parallel.pipeline(), parallel.replicate(), shard, parallel.context(),
                               parallel.tensor()}) {
      if (product <= kMaxAxis) product *= size > 0 ? size : 1;
    }
    const bool fits = shard > 0 ? product == world_size : world_size % product == 0;
    if (!fits) {
      const std::string ranks =
          product > kMaxAxis ? absl::StrCat("more than ", kMaxAxis) : absl::StrCat(product);
      problems.Add(
          "parallel",
          absl::StrCat("pipeline ", parallel.pipeline(), " x replicate ", parallel.replicate(),
                       " x shard ", shard > 0 ? absl::StrCat(shard) : "unset", " x context ",
                       parallel.context(), " x tensor ", parallel.tensor()),
          absl::StrCat("does not make a world of ", world_size, " ranks; start ",
                       shard > 0 ? "" : "a multiple of ", ranks, " or change an axis"));
    } else if (shard == 0) {
      shard = world_size / product;
    }
  }
  if (shard == 0) return 0;
  problems.Divides("parallel.expert", parallel.expert(), "parallel.shard x parallel.context",
                   shard * parallel.context());
  return parallel.replicate() * shard;
}

void CheckOptim(const recipe::v1::Optim& optim, ProblemList& problems) {
  const auto beta = [&](const std::string& field, double value) {
    if (!(value >= 0 && value < 1))
      problems.Add(field, value, "must be at least 0 and less than 1");
  };
  beta("optim.adamw.beta1", optim.adamw().beta1());
  beta("optim.adamw.beta2", optim.adamw().beta2());
  problems.Above("optim.adamw.epsilon", optim.adamw().epsilon(), 0);
  problems.AtLeast("optim.adamw.weight_decay", optim.adamw().weight_decay(), 0.0);
  problems.AtLeast("optim.gradient_clip_norm", optim.gradient_clip_norm(), 0.0);
}

void CheckSchedule(const Stage& stage, const std::string& path, ProblemList& problems) {
  const Schedule& schedule = stage.schedule();
  if (problems.Require(schedule.has_learning_rate_peak(), path + "learning_rate_peak") &&
      problems.Above(path + "learning_rate_peak", schedule.learning_rate_peak(), 0)) {
    const auto below_peak = [&](const std::string& field, double value) {
      if (problems.AtLeast(field, value, 0.0) && value > schedule.learning_rate_peak()) {
        problems.Add(field, value,
                     absl::StrCat("must be at most ", path,
                                  "learning_rate_peak = ", schedule.learning_rate_peak()));
      }
    };
    below_peak(path + "learning_rate_start", schedule.learning_rate_start());
    below_peak(path + "learning_rate_final", schedule.learning_rate_final());
  }
  const bool warmup_valid =
      problems.AtLeast<int64_t>(path + "warmup_steps", schedule.warmup_steps(), 0);
  if (warmup_valid && stage.steps() > 0 && schedule.warmup_steps() >= stage.steps()) {
    problems.Add(path + "warmup_steps", schedule.warmup_steps(),
                 absl::StrCat("must be less than the stage's steps = ", stage.steps()));
  }
  if (schedule.shape() != Schedule::CONSTANT_WITH_DECAY) {
    if (schedule.has_decay_steps()) {
      problems.Add(path + "decay_steps", schedule.decay_steps(),
                   absl::StrCat("belongs to ", path, "shape = CONSTANT_WITH_DECAY alone"));
    }
  } else if (problems.Require(schedule.has_decay_steps(), path + "decay_steps",
                              absl::StrCat("by ", path, "shape = CONSTANT_WITH_DECAY")) &&
             problems.AtLeast<int64_t>(path + "decay_steps", schedule.decay_steps(), 1) &&
             warmup_valid && stage.steps() > 0 &&
             schedule.decay_steps() > stage.steps() - schedule.warmup_steps()) {
    problems.Add(path + "decay_steps", schedule.decay_steps(),
                 absl::StrCat("must be at most steps - warmup_steps = ",
                              stage.steps() - schedule.warmup_steps()));
  }
}

// A microbatch's tokens are cut into a segment for each context rank and rows for each tensor rank.
void CheckTokenAxes(const recipe::v1::Parallel& parallel, const std::string& path,
                    int64_t microbatch, ProblemList& problems) {
  const int64_t context = parallel.context(), tensor = parallel.tensor();
  if (context < 1 || context > kMaxAxis || tensor < 1 || tensor > kMaxAxis) return;
  const std::string tokens = absl::StrCat(path, "rows_per_microbatch x ", path, "row_tokens");
  if (tensor == 1) {
    problems.Divides("parallel.context", context, tokens, microbatch);
  } else if (context == 1) {
    problems.Divides("parallel.tensor", tensor, tokens, microbatch);
  } else {
    problems.Divides("parallel.context x parallel.tensor", context * tensor, tokens, microbatch);
  }
}

// A step is whole microbatches, as many for every rank.
void CheckMicrobatches(const Stage& stage, const std::string& path, int64_t microbatch,
                       int64_t data_parallel, ProblemList& problems) {
  if (stage.tokens_per_step() % microbatch != 0) {
    problems.Add(
        path + "tokens_per_step", stage.tokens_per_step(),
        absl::StrCat("is not a multiple of rows_per_microbatch x row_tokens = ", microbatch));
  } else if (data_parallel > 1 && stage.tokens_per_step() / microbatch % data_parallel != 0) {
    problems.Add(
        path + "tokens_per_step", stage.tokens_per_step(),
        absl::StrCat("makes ", stage.tokens_per_step() / microbatch,
                     " microbatches, not a multiple of the data-parallel size ", data_parallel));
  }
}

// data_parallel: 0 where it is not known.
void CheckStage(const Stage& stage, const std::string& path, int64_t data_parallel,
                const recipe::v1::Parallel& parallel, ProblemList& problems) {
  if (problems.Require(stage.has_steps(), path + "steps")) {
    problems.Between(path + "steps", stage.steps(), 1, kMaxSteps);
  }
  const bool row_valid =
      problems.Require(stage.has_row_tokens(), path + "row_tokens") &&
      problems.Between(path + "row_tokens", stage.row_tokens(), 1, kMaxMicrobatch);
  const bool rows_valid = problems.Between(path + "rows_per_microbatch",
                                           stage.rows_per_microbatch(), 1, kMaxMicrobatch);
  const bool step_valid =
      problems.Require(stage.has_tokens_per_step(), path + "tokens_per_step") &&
      problems.AtLeast<int64_t>(path + "tokens_per_step", stage.tokens_per_step(), 1);
  if (row_valid && rows_valid) {
    const int64_t microbatch = stage.rows_per_microbatch() * stage.row_tokens();
    if (microbatch > kMaxMicrobatch) {
      problems.Add(path + "rows_per_microbatch", stage.rows_per_microbatch(),
                   absl::StrCat("makes microbatches of ", microbatch, " tokens, at most ",
                                kMaxMicrobatch, " fit"));
    } else {
      CheckTokenAxes(parallel, path, microbatch, problems);
      if (step_valid) CheckMicrobatches(stage, path, microbatch, data_parallel, problems);
    }
  }
  if (problems.Require(stage.has_schedule(), path + "schedule")) {
    CheckSchedule(stage, path + "schedule.", problems);
  }
}

void CheckStages(const Recipe& recipe, int64_t data_parallel, ProblemList& problems) {
  if (recipe.stages().empty()) problems.AddMissing("stages", "(at least one)");
  std::map<std::string, int> names;
  int64_t steps = 0;
  for (int i = 0; i < recipe.stages_size(); ++i) {
    const Stage& stage = recipe.stages(i);
    const std::string path = absl::StrCat("stages.", i, ".");
    if (stage.has_name()) {
      const auto [other, is_new] = names.insert({stage.name(), i});
      if (!is_new) {
        problems.Add(path + "name", stage.name(),
                     absl::StrCat("is also the name of stages.", other->second));
      }
    }
    CheckStage(stage, path, data_parallel, recipe.parallel(), problems);
    if (stage.steps() > 0 && stage.steps() <= kMaxSteps) steps += stage.steps();
  }
  problems.AtMost("stages", steps, kMaxSteps);
}

void CheckTrainer(const recipe::v1::Trainer& trainer, ProblemList& problems) {
  const auto at_least = [&](const char* field, bool has, int64_t value, int64_t minimum) {
    if (has) problems.AtLeast(absl::StrCat("trainer.", field), value, minimum);
  };
  at_least("checkpoint_every_steps", true, trainer.checkpoint_every_steps(), 0);
  at_least("checkpoints_to_keep", true, trainer.checkpoints_to_keep(), 1);
  at_least("evaluate_every_steps", true, trainer.evaluate_every_steps(), 0);
  at_least("evaluation_tokens", trainer.has_evaluation_tokens(), trainer.evaluation_tokens(), 1);
  at_least("log_every_steps", true, trainer.log_every_steps(), 1);
  if (!(trainer.collective_timeout_seconds() > 0)) {
    problems.Add("trainer.collective_timeout_seconds",
                 absl::StrCat(trainer.collective_timeout_seconds()), "must be above 0");
  }
  if (trainer.has_threads_per_rank() &&
      (trainer.threads_per_rank() < 1 || trainer.threads_per_rank() > kMaxThreads)) {
    problems.Add("trainer.threads_per_rank", absl::StrCat(trainer.threads_per_rank()),
                 absl::StrCat("must be 1 to ", kMaxThreads));
  }
  if (trainer.has_initial_checkpoint() && trainer.initial_checkpoint().empty()) {
    problems.Add("trainer.initial_checkpoint", "''", "must name a folder; remove it for none");
  }
}

}  // namespace

std::string RecipeProblem::ToString() const {
  return value.empty() ? absl::StrCat("recipe ", field, " ", rule)
                       : absl::StrCat("recipe ", field, " = ", value, " ", rule);
}

std::vector<RecipeProblem> RecipeProblems(const Recipe& recipe, int64_t world_size, RecipeUse use) {
  const Recipe resolved = Resolved(recipe);
  ProblemList problems;
  if (problems.Require(resolved.has_schema_version(), "schema_version", "(1)") &&
      resolved.schema_version() != 1) {
    problems.Add("schema_version", resolved.schema_version(), "is not known; this build reads 1");
  }
  CheckScalars(resolved, "", problems);
  CheckModel(resolved, problems);
  const int64_t data_parallel = CheckMesh(resolved.parallel(), world_size, problems);
  if (use == RecipeUse::kTraining) {
    problems.Require(!resolved.data().path().empty(), "data.path",
                     "(the folder that plait prepare wrote)");
    problems.Between("data.prefetch_batches", resolved.data().prefetch_batches(), 1, 1024);
    CheckOptim(resolved.optim(), problems);
    CheckStages(resolved, data_parallel, problems);
  }
  CheckTrainer(resolved.trainer(), problems);
  if (resolved.parallel().device_sums() == recipe::v1::Parallel::NCCL &&
      resolved.trainer().device() != recipe::v1::Trainer::CUDA) {
    problems.Add("parallel.device_sums", "NCCL",
                 "is for GPUs; remove it or set trainer.device = CUDA");
  }
  if (resolved.debug().has_stop_after_steps()) {
    problems.AtLeast<int64_t>("debug.stop_after_steps", resolved.debug().stop_after_steps(), 1);
  }
  return problems.Take();
}

absl::Status ValidateRecipe(const Recipe& recipe, int64_t world_size, RecipeUse use) {
  std::string lines;
  for (const RecipeProblem& problem : RecipeProblems(recipe, world_size, use)) {
    absl::StrAppend(&lines, lines.empty() ? "" : "\n", problem.ToString());
  }
  return lines.empty() ? absl::OkStatus() : absl::InvalidArgumentError(lines);
}

}  // namespace plait
