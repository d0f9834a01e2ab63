#include "trainer/checked_layouts.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/random.h"
#include "base/status_macros.h"
#include "data/sequence_packing.h"
#include "recipes/recipe_defaults.h"
#include "recipes/recipe_loader.h"
#include "recipes/recipe_overrides.h"
#include "recipes/recipe_validation.h"
#include "recipes/schema/recipe.pb.h"

namespace plait {
namespace {

using recipe::v1::Recipe;
using recipe::v1::Trainer;

// Divisible by context x tensor of every layout; the tokens of a leaf.
constexpr int64_t kRowTokens = 48;
constexpr int32_t kVocabulary = 48;

// Initial values are larger than in training: no gradient is so small that it is all cancellation.
constexpr char kJambaModel[] = R"(
  family: JAMBA
  vocabulary: 48 model_dim: 24 hidden_dim: 24 layers: 4
  pattern: "MeAdMdAe"
  attention { heads: 8 kv_heads: 4 head_dim: 4 }
  mamba { state_dim: 8 conv_width: 4 expand: 2 dt_rank: 6 }
  experts { experts: 8 experts_per_token: 2
            balance_loss_coefficient: 0.7 z_loss_coefficient: 0.3 }
  initializer_range: 0.3
  activation_loss { coefficient: 0.5 })";

constexpr char kTiedJambaModel[] = R"(
  family: JAMBA
  vocabulary: 48 model_dim: 24 hidden_dim: 24 layers: 3
  pattern: "MdAeMe"
  attention { heads: 4 }
  mamba { state_dim: 8 conv_width: 3 expand: 2 dt_rank: 5 conv_bias: false projection_bias: true }
  experts { experts: 8 experts_per_token: 3
            balance_loss_coefficient: 0.7 z_loss_coefficient: 0.3 }
  tied_embeddings: true
  initializer_range: 0.3
  activation_loss { coefficient: 0.5 sites: BLOCK_OUTPUT sites: EXPERT_OUTPUT sites: RESIDUAL })";

constexpr char kLlamaModel[] = R"(
  family: LLAMA
  vocabulary: 48 model_dim: 24 hidden_dim: 36 layers: 4
  attention { heads: 24 kv_heads: 12 head_dim: 2 rotary_embedding { theta: 100 } }
  initializer_range: 0.3
  activation_loss { coefficient: 0.5 })";

constexpr char kRun[] = R"(
data { path: "none" }
optim { adamw {} gradient_clip_norm: 0.5 }
stages { steps: 1 rows_per_microbatch: 1 schedule { learning_rate_peak: 1e-3 } }
trainer { threads_per_rank: 1 }
)";

const char* ModelText(CheckedModel model) {
  switch (model) {
    case CheckedModel::kJamba:
      return kJambaModel;
    case CheckedModel::kTiedJamba:
      return kTiedJambaModel;
    case CheckedModel::kLlama:
      return kLlamaModel;
  }
  return "";
}

// Of the initial weights: ones whose routing gap is wide enough for the comparison.
uint64_t Seed(CheckedModel model) {
  switch (model) {
    case CheckedModel::kJamba:
      return 23;
    case CheckedModel::kTiedJamba:
      return 112;
    case CheckedModel::kLlama:
      return 9;
  }
  return 0;
}

const std::vector<CheckedModel> kJambaOnly = {CheckedModel::kJamba};
const std::vector<CheckedModel> kLlamaOnly = {CheckedModel::kLlama};
const std::vector<CheckedModel> kBothJambas = {CheckedModel::kJamba, CheckedModel::kTiedJamba};
const std::vector<CheckedModel> kAll = {CheckedModel::kJamba, CheckedModel::kTiedJamba,
                                        CheckedModel::kLlama};

std::vector<CheckedLayout> MakeLayouts() {
  const std::vector<std::string> messages = {"parallel.transport=MESSAGES"};
  const std::vector<std::string> canonical = {"parallel.reduction=CANONICAL"};
  const std::vector<std::string> recomputed = {"trainer.recomputation=BLOCKS"};
  const std::vector<std::string> waves = {"parallel.expert_wave_tokens=5"};
  const std::vector<std::string> recomputed_waves = {waves[0], recomputed[0]};
  const std::vector<std::string> ring = {"parallel.context_attention=RING"};
  const std::vector<std::string> interleaved = {"parallel.pipeline_chunks=2"};
  return {
      {.sizes = {.replicate = 2}},
      {.sizes = {.shard = 2}, .models = kAll},
      {.sizes = {.shard = 2}, .variant = "messages", .settings = messages},
      {.sizes = {.shard = 2, .expert = 2}, .models = kBothJambas},
      {.sizes = {.tensor = 2}, .models = kAll},
      {.sizes = {.tensor = 2}, .variant = "recomputed", .settings = recomputed},
      {.sizes = {.context = 2}, .models = kAll},
      {.sizes = {.context = 2}, .variant = "recomputed", .settings = recomputed},
      {.sizes = {.pipeline = 2}},
      {.sizes = {.pipeline = 2}, .variant = "recomputed", .settings = recomputed},
      {.sizes = {.pipeline = 2}, .variant = "interleaved", .settings = interleaved},
      {.sizes = {.pipeline = 3}},
      {.sizes = {.shard = 3}, .variant = "recomputed", .settings = recomputed},
      {.sizes = {.tensor = 3}, .models = kLlamaOnly},
      {.sizes = {.context = 3}},
      {.sizes = {.replicate = 2, .shard = 2}, .variant = "messages", .settings = messages},
      {.sizes = {.replicate = 2, .shard = 2}, .variant = "canonical", .settings = canonical},
      {.sizes = {.shard = 4}, .variant = "messages", .settings = messages},
      {.sizes = {.shard = 4, .expert = 4}, .models = kBothJambas},
      {.sizes = {.shard = 4, .expert = 4},
       .variant = "many waves",
       .settings = waves,
       .models = kBothJambas},
      {.sizes = {.replicate = 2, .shard = 2, .expert = 2}, .models = kJambaOnly},
      {.sizes = {.tensor = 4}},
      {.sizes = {.shard = 2, .tensor = 2}, .models = kAll},
      {.sizes = {.shard = 2, .tensor = 2, .expert = 2},
       .variant = "messages",
       .settings = messages,
       .models = kBothJambas},
      {.sizes = {.shard = 2, .tensor = 2, .expert = 2},
       .variant = "many waves, recomputed",
       .settings = recomputed_waves,
       .models = kBothJambas},
      {.sizes = {.shard = 2, .tensor = 2}, .variant = "canonical", .settings = canonical},
      {.sizes = {.context = 4}, .models = kAll},
      {.sizes = {.context = 4}, .variant = "ring", .settings = ring, .models = kAll},
      {.sizes = {.context = 2, .tensor = 2}},
      {.sizes = {.shard = 2, .context = 2}, .models = kAll},
      {.sizes = {.shard = 2, .context = 2, .expert = 4}, .models = kBothJambas},
      {.sizes = {.pipeline = 4}},
      {.sizes = {.pipeline = 2, .shard = 2}},
      {.sizes = {.pipeline = 2, .shard = 2}, .variant = "canonical", .settings = canonical},
      {.sizes = {.pipeline = 2, .shard = 2}, .variant = "interleaved", .settings = interleaved},
      {.sizes = {.pipeline = 2, .tensor = 2}},
      {.sizes = {.pipeline = 2, .context = 2}},
      {.sizes = {.shard = 4, .tensor = 2, .expert = 2}, .models = kBothJambas},
      {.sizes = {.shard = 2, .tensor = 4, .expert = 2}, .models = kJambaOnly},
      {.sizes = {.context = 4, .tensor = 2}},
      {.sizes = {.context = 3, .tensor = 2},
       .variant = "ring",
       .settings = ring,
       .models = kLlamaOnly},
      {.sizes = {.shard = 2, .context = 2, .tensor = 2, .expert = 4}, .models = kBothJambas},
      {.sizes = {.pipeline = 2, .shard = 2, .tensor = 2}},
      {.sizes = {.pipeline = 2, .shard = 2, .context = 2, .expert = 2}, .models = kJambaOnly},
      {.sizes = {.pipeline = 2, .context = 2, .tensor = 2}},
      {.sizes = {.pipeline = 4, .replicate = 2}, .variant = "canonical", .settings = canonical},
  };
}

}  // namespace

std::string_view Name(CheckedModel model) {
  switch (model) {
    case CheckedModel::kJamba:
      return "jamba";
    case CheckedModel::kTiedJamba:
      return "tied jamba";
    case CheckedModel::kLlama:
      return "llama";
  }
  return "?";
}

int CheckedLayout::ranks() const {
  return sizes.pipeline * sizes.replicate * sizes.shard * sizes.context * sizes.tensor;
}

std::string CheckedLayout::name() const {
  std::string text;
  for (const auto& [axis, size] : {std::pair("pipeline ", sizes.pipeline),
                                   {"replicate ", sizes.replicate},
                                   {"shard ", sizes.shard},
                                   {"context ", sizes.context},
                                   {"tensor ", sizes.tensor}}) {
    if (size > 1) absl::StrAppend(&text, text.empty() ? "" : " x ", axis, size);
  }
  if (text.empty()) text = "one rank";
  if (sizes.expert > 1) absl::StrAppend(&text, ", expert ", sizes.expert);
  if (!variant.empty()) absl::StrAppend(&text, ", ", variant);
  return text;
}

double CheckedLayout::bound(DType precision) const {
  if (precision == DType::kF64) return 1e-11;
  return sizes.context > 1 || sizes.tensor > 1 || sizes.expert > 1 ? 2e-5 : 1e-6;
}

double CheckedLayout::rounding_variance() const {
  return sizes.tensor > 1 ? 2 : sizes.context > 1 || sizes.expert > 1 ? 1 : 0;
}

const std::vector<CheckedLayout>& CheckedLayouts() {
  static const std::vector<CheckedLayout>* const layouts = [] {
    auto* made = new std::vector<CheckedLayout>(MakeLayouts());
    std::stable_sort(made->begin(), made->end(),
                     [](const auto& a, const auto& b) { return a.ranks() < b.ranks(); });
    return made;
  }();
  return *layouts;
}

int NumCheckedLeaves(const CheckedLayout& layout) {
  return 8 % layout.data_parallel() == 0 ? 8 : 12;
}

Batch CheckedLeaf(int i) {
  struct Documents {
    std::vector<int64_t> starts;
    int64_t tokens;  // the rest of the row is padding
  };
  static const Documents kDocuments[] = {
      {{0, 5, 42}, 48}, {{0, 13, 14, 29}, 45}, {{0}, 48}, {{0, 24, 30}, 36}};
  const Documents& documents = kDocuments[i % 4];
  const RandomKey key(static_cast<uint64_t>(i), RandomPurpose::kTest, "checked leaf");
  Row row;
  row.document_starts = documents.starts;
  for (int64_t t = 0; t < documents.tokens; ++t) {
    const auto words = key.Words(static_cast<uint64_t>(t));
    row.tokens.push_back(static_cast<int32_t>(words[0] % kVocabulary));
    // A few ids most of the time, so that the gradients of the microbatches add up instead of
    // cancelling, which would magnify roundings.
    row.targets.push_back(static_cast<int32_t>(words[1] % (t % 4 == 0 ? kVocabulary : 6)));
    // A prompt in the middle; an answer whose tokens weigh differently.
    row.weights.push_back(t < 10 ? 1.0f : t < 20 ? 0.0f : 0.3f + 0.1f * static_cast<float>(t % 3));
  }
  for (const int64_t start : documents.starts) {
    if (start > 0) row.weights[static_cast<size_t>(start) - 1] = 0;
  }
  row.weights.back() = 0;
  return PackRows({&row, 1}, kRowTokens);
}

absl::StatusOr<Recipe> CheckedRecipe(CheckedModel model, DType precision,
                                     const CheckedLayout& layout) {
  const std::string name = absl::StrCat(std::string(Name(model)), ", ", layout.name());
  PLAIT_ASSIGN_OR_RETURN(
      Recipe recipe,
      ParseRecipe(absl::StrCat("schema_version: 1\nmodel {", ModelText(model), "}", kRun), name));
  recipe.set_seed(Seed(model));
  recipe.mutable_trainer()->set_precision(precision == DType::kF64   ? Trainer::F64
                                          : precision == DType::kF32 ? Trainer::F32
                                                                     : Trainer::BF16);
  recipe.mutable_stages(0)->set_row_tokens(kRowTokens);
  recipe.mutable_stages(0)->set_tokens_per_step(kRowTokens * NumCheckedLeaves(layout));
  recipe::v1::Parallel& parallel = *recipe.mutable_parallel();
  parallel.set_pipeline(layout.sizes.pipeline);
  parallel.set_replicate(layout.sizes.replicate);
  parallel.set_shard(layout.sizes.shard);
  parallel.set_context(layout.sizes.context);
  parallel.set_tensor(layout.sizes.tensor);
  parallel.set_expert(layout.sizes.expert);
  for (const std::string& setting : layout.settings) {
    PLAIT_RETURN_IF_ERROR(ApplyOverride(setting, recipe));
  }
  recipe = Resolved(recipe);
  PLAIT_RETURN_IF_ERROR(ValidateRecipe(recipe, layout.ranks()));
  return recipe;
}

}  // namespace plait
