// How long a step should take: a model of the machine, not a measurement.
//   compute   of a microbatch: matrix products (1 + r) / rate, attention, scans and elementwise
//             passes; r = 1/3 where blocks are recomputed
//   traffic   weights gathered and gradients reduced of a microbatch; the ranks of a host that hold
//             the same shares use all their links together
//   step      = (n + stages - 1) [max(compute, traffic) + c min(compute, traffic) + (1 - o)
//   exchange
//               + exposed] + optimizer + latencies
// n: microbatches of a rank; c: interference; o: overlap of the experts' exchange; exposed: sums
// and gathers of the tensor and context axes, which nothing hides.
#pragma once

#include <cstdint>

#include "model/block_memory.h"
#include "model/model_shape.h"
#include "parallel/communication_plan.h"
#include "parallel/device_mesh.h"
#include "recipes/parameter_count.h"
#include "trainer/machine.h"

namespace plait {

struct StepEstimate {
  // Of one microbatch of a rank, in seconds.
  double matmul = 0;
  double attention = 0;
  double scan = 0;
  double elementwise = 0;
  double weights = 0;   // gathers and gradients of the shares
  double exchange = 0;  // of experts' rows, before overlap
  double exposed = 0;   // tensor and context axes
  // Of the step.
  double replicas = 0;
  double optimizer = 0;
  double latency = 0;
  double bubble = 0;  // what pipeline stages wait for each other
  double step = 0;

  double tokens_per_second = 0;  // of all ranks
  double mfu = 0;                // model FLOPs (no recomputation) / peak of all ranks

  double compute() const { return matmul + attention + scan + elementwise; }
};

struct StepEstimateInputs {
  const ModelShape& shape;
  const ParameterCount& parameters;
  const DeviceMesh& mesh;
  const CommunicationPlan& communication;
  const Machine& machine;
  double recomputed = 0;  // of the forward, 0 or 1
  int64_t row_tokens = 0;
  int64_t microbatch_tokens = 0;
  int64_t microbatches = 0;        // of a rank
  int64_t chunks = 1;              // parts of the model per stage of the pipeline
  int64_t parameters_of_rank = 0;  // elements of its shares
};

StepEstimate EstimateStep(const StepEstimateInputs& inputs);

}  // namespace plait
