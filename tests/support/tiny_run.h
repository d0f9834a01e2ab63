// A run small enough for tests: made-up text prepared on disk, and a recipe of two short stages for
// a hybrid model with every kind of block.
#pragma once

#include <cstdio>
#include <string>

#include "base/check.h"
#include "base/durable_file.h"
#include "base/random.h"
#include "data/prepare.h"
#include "recipes/recipe_defaults.h"
#include "recipes/recipe_loader.h"
#include "recipes/recipe_overrides.h"
#include "recipes/recipe_validation.h"
#include "tests/support/temporary_folder.h"

namespace plait {

inline constexpr int64_t kTinyVocabulary = 300;

// Documents of few distinct words, so that a tiny model learns something in a few steps.
inline std::string TinyText(uint64_t seed) {
  static constexpr const char* kWords[] = {"the", "cat", "sat", "on", "a", "mat", "and", "ran"};
  const RandomKey key(seed, RandomPurpose::kTest, "tiny text");
  std::string text;
  for (int word = 0; word < 120; ++word) {
    text += kWords[key.Words(static_cast<uint64_t>(word))[0] % 8];
    text += word % 12 == 11 ? "\n" : " ";
  }
  return text;
}

// A folder with text/ and the prepared data/.
class TinyData {
 public:
  explicit TinyData(uint64_t seed = 1) {
    std::filesystem::create_directories(folder_.File("text"));
    for (uint64_t d = 0; d < 24; ++d) {
      PLAIT_CHECK(WriteFileDurably(folder_.File("text/" + std::to_string(100 + d) + ".txt"),
                                   TinyText(1000 * seed + d))
                      .ok());
    }
    PrepareOptions options;
    options.inputs = {folder_.File("text")};
    options.output = folder_.File("data");
    options.vocabulary_size = kTinyVocabulary;
    options.heldout_fraction = 0.1;
    PLAIT_CHECK(Prepare(options).ok());
  }

  std::string path() const { return folder_.File("data"); }
  std::string File(const std::string& name) const { return folder_.File(name); }

 private:
  TemporaryFolder folder_;
};

inline std::string TinyRecipeText(const std::string& data_path) {
  return R"(schema_version: 1
name: "tiny"
seed: 7
model {
  family: JAMBA
  vocabulary: 300 model_dim: 16 hidden_dim: 24 layers: 3
  pattern: "MdMeAe"
  attention { heads: 2 kv_heads: 1 }
  mamba { state_dim: 4 conv_width: 4 expand: 2 dt_rank: 2 }
  experts { experts: 4 experts_per_token: 2 balance_loss_coefficient: 0.01
            z_loss_coefficient: 0.001 }
  tied_embeddings: true
  activation_loss { coefficient: 1e-3 }
}
data { path: ")" +
         data_path + R"(" }
optim { adamw { weight_decay: 0.1 } gradient_clip_norm: 1.0 }
stages {
  name: "short_rows" steps: 4 row_tokens: 16 rows_per_microbatch: 2 tokens_per_step: 64
  schedule { learning_rate_peak: 1e-2 warmup_steps: 1 }
}
stages {
  name: "long_rows" steps: 3 row_tokens: 64 rows_per_microbatch: 1 tokens_per_step: 128
  schedule { learning_rate_peak: 1e-2 shape: LINEAR }
}
trainer { precision: F32 log_every_steps: 1000 checkpoints_to_keep: 2 threads_per_rank: 1 }
)";
}

// A Llama-2-style model of the same sizes, otherwise as above.
inline std::string TinyLlamaRecipeText(const std::string& data_path) {
  std::string text = TinyRecipeText(data_path);
  const size_t begin = text.find("model {"), end = text.find("data {");
  return text.replace(begin, end - begin, R"(model {
  family: LLAMA
  vocabulary: 300 model_dim: 16 hidden_dim: 24 layers: 2
  attention { heads: 4 kv_heads: 2 rotary_embedding { theta: 100 } }
}
)");
}

// Resolved and valid, with overrides as of the command line.
inline recipe::v1::Recipe ResolvedRecipe(const std::string& text,
                                         const std::vector<std::string>& overrides = {},
                                         int64_t world_size = 1) {
  absl::StatusOr<recipe::v1::Recipe> recipe = ParseRecipe(text, "tiny");
  PLAIT_CHECK(recipe.ok());
  for (const std::string& assignment : overrides)
    PLAIT_CHECK(ApplyOverride(assignment, *recipe).ok());
  recipe::v1::Recipe resolved = Resolved(*recipe);
  const absl::Status valid = ValidateRecipe(resolved, world_size);
  if (!valid.ok()) std::fprintf(stderr, "%s\n", valid.ToString().c_str());
  PLAIT_CHECK(valid.ok());
  return resolved;
}

inline recipe::v1::Recipe TinyRecipe(const std::string& data_path,
                                     const std::vector<std::string>& overrides = {},
                                     int64_t world_size = 1) {
  return ResolvedRecipe(TinyRecipeText(data_path), overrides, world_size);
}

}  // namespace plait
