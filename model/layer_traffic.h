// What the layers of a model move between ranks in a step, as integers from the layout alone: the
// tensor axis' gathers and sums, experts' rows, the context axis' keys, values and states, the
// pipeline's sends. Bytes as in parallel/communication_plan.h. Rows of experts are those of an even
// routing; what a rank really receives depends on the tokens.
#pragma once

#include "model/block_memory.h"
#include "model/memory_plan.h"
#include "model/model_shape.h"
#include "parallel/communication_plan.h"
#include "parallel/device_mesh.h"

namespace plait {

// Adds to `plan` what the rank's parts of the model move.
void AddLayerTraffic(const ModelShape& shape, const DeviceMesh& mesh, const RankSizes& sizes,
                     const MemoryPlanOptions& options, CommunicationPlan& plan);

}  // namespace plait
