// A checkpoint as conversion makes it: the weights alone, in the source's dtype, with a recipe that
// has only a model.
#pragma once

#include <map>
#include <string>

#include "base/check.h"
#include "base/digest.h"
#include "base/float_conversion.h"
#include "checkpoint/checkpoint_writer.h"
#include "recipes/recipe_digest.h"
#include "trainer/model_runtime.h"

namespace plait {

struct ConvertedCheckpoint {
  std::string folder;
  NamedState state;  // the tensors that it stores
};

// Random weights of the recipe's model, rounded to `dtype`, under folder/checkpoints.
// `tokenizer`: which of the attachments tokenizer_digest is of; empty: none.
inline ConvertedCheckpoint WriteConverted(const std::string& folder,
                                          const recipe::v1::Recipe& recipe, DType dtype,
                                          const std::map<std::string, std::string>& attachments,
                                          const std::string& tokenizer) {
  Execution execution({.num_threads = 1});
  auto runtime = ModelRuntime::Create(execution, recipe);
  PLAIT_CHECK(runtime.ok());
  PLAIT_CHECK(runtime->model->Initialize(*runtime->sharder, /*seed=*/99).ok());
  NamedState masters;
  runtime->sharder->AppendState(masters);
  CheckpointContent content;
  for (const NamedTensor& master : masters.tensors) {
    NamedTensor stored{master.name, Tensor::OnHost(dtype, master.shard.shape()), master.spec};
    PLAIT_CHECK(ConvertFloats(master.name, 0, master.shard.vector(), stored.shard.vector()).ok());
    content.state.tensors.push_back(stored);
  }
  recipe::v1::Recipe model_only;
  model_only.set_schema_version(1);
  model_only.set_name("converted");
  *model_only.mutable_model() = recipe.model();
  content.description = {.recipe_text = RecipeText(model_only),
                         .recipe_digest = RecipeDigest(model_only),
                         .model_digest = ModelDigest(model_only)};
  content.attachments = attachments;
  if (!tokenizer.empty()) {
    const std::string& bytes = attachments.at(tokenizer);
    content.description.tokenizer_digest = DigestOf(bytes.data(), bytes.size());
  }
  content.state.texts = {{"conversion.source_format", "hugging_face"},
                         {"conversion.model_type", "jamba"},
                         {"conversion.dtype", dtype == DType::kBf16 ? "BF16" : "F16"}};
  const auto world = MakeSingleRankCommunicator();
  const auto saved = CheckpointWriter(*world, folder + "/checkpoints", 1).Save(content);
  PLAIT_CHECK(saved.ok());
  return {*saved, content.state};
}

}  // namespace plait
