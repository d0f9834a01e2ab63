#include "trainer/fresh_model.h"

#include <utility>

#include "base/status_macros.h"
#include "recipes/schema/recipe.pb.h"

namespace plait {

absl::StatusOr<std::unique_ptr<FreshModel>> FreshModel::Create(
    Execution& execution, const recipe::v1::Recipe& recipe, std::shared_ptr<Communicator> world) {
  auto fresh = std::make_unique<FreshModel>();
  ModelRuntime& runtime = fresh->runtime;
  PLAIT_ASSIGN_OR_RETURN(runtime, ModelRuntime::Create(execution, recipe, std::move(world)));
  PLAIT_RETURN_IF_ERROR(runtime.model->Initialize(*runtime.sharder, recipe.seed()));
  PLAIT_ASSIGN_OR_RETURN(fresh->optimizer, AdamW::Create(execution, recipe.optim().adamw(),
                                                         runtime.sharder->sharded()));
  fresh->step = std::make_unique<TrainingStep>(
      execution, runtime, *fresh->optimizer, fresh->objective, recipe.optim().gradient_clip_norm());
  return fresh;
}

std::vector<Batch> OwnLeaves(const DeviceMesh& mesh, std::span<const Batch> leaves) {
  std::vector<Batch> own;
  for (auto i = static_cast<size_t>(mesh.data_parallel_rank()); i < leaves.size();
       i += static_cast<size_t>(mesh.data_parallel_size())) {
    own.push_back(leaves[i]);
  }
  return own;
}

}  // namespace plait
