// The documented defaults of the schema, written out.
#pragma once

#include "recipes/schema/recipe.pb.h"

namespace plait {

// Every unset field that has a documented default holds it; set fields, required ones and those
// that only the machine can fill (parallel.shard, trainer.threads_per_rank,
// trainer.evaluation_tokens) stay as they are. Resolved(Resolved(r)) = Resolved(r).
recipe::v1::Recipe Resolved(const recipe::v1::Recipe& recipe);
recipe::v1::Model ResolvedModel(const recipe::v1::Model& model);

}  // namespace plait
