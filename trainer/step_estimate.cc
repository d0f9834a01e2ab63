#include "trainer/step_estimate.h"

#include <algorithm>
#include <cmath>
#include <string_view>

namespace plait {
namespace {

using enum MeshAxis;

// Passes over [tokens, model_dim] of a block, forward and backward together: 80 MB a token of the
// 144 blocks of Jamba 1.5 Large (performance model, section 5).
constexpr double kPassesPerBlock = 34;
// AdamW and the refreshed compute weights.
constexpr double kOptimizerBytesPerParameter = 30;

// Ranks `stride` apart. What all of a group need alike comes to a host once, over all its links;
// experts' rows are each rank's own.
double Seconds(const Machine& machine, const PlannedCollective& collective, int64_t stride) {
  const auto bytes = static_cast<double>(collective.bytes);
  const int64_t host = machine.ranks_per_host;
  if (host == 0 || collective.size * stride <= host) return bytes / machine.host_bytes_per_second;
  const auto together = static_cast<double>(std::max<int64_t>(1, host / stride));
  if (collective.what == kExpertRows) {
    const auto size = static_cast<double>(collective.size);
    return bytes * (size - together) / (size - 1) / machine.network_bytes_per_second;
  }
  return std::max(bytes / (together * machine.network_bytes_per_second),
                  bytes / machine.host_bytes_per_second);
}

// How far apart, in ranks of the world, neighbours of a collective's group are.
int64_t Stride(const DeviceMesh& mesh, const PlannedCollective& collective) {
  const int64_t tensor = mesh.size(kTensor), context = mesh.size(kContext);
  const std::string_view axes = collective.ranks;
  if (axes.find("expert") != std::string_view::npos) {
    return axes.find('/') != std::string_view::npos ? tensor * mesh.size(kExpert) : 1;
  }
  if (axes.find("tensor") != std::string_view::npos) return 1;
  if (axes.find("context") != std::string_view::npos) return tensor;
  if (axes.find("shard") != std::string_view::npos) return tensor * context;
  if (axes.find("replicate") != std::string_view::npos) return tensor * context * mesh.size(kShard);
  if (axes.find("pipeline") != std::string_view::npos) {
    return mesh.world().size() / mesh.size(kPipeline);
  }
  return 1;
}

}  // namespace

StepEstimate EstimateStep(const StepEstimateInputs& in) {
  const Machine& machine = in.machine;
  const auto microbatches = static_cast<double>(in.microbatches);
  const auto stages = static_cast<double>(in.mesh.size(kPipeline));
  const double parts = static_cast<double>(in.mesh.size(kContext) * in.mesh.size(kTensor)) * stages;
  const auto tokens = static_cast<double>(in.microbatch_tokens);
  const double repeated = 1 + in.recomputed / 3;
  const double products = 6.0 * static_cast<double>(in.parameters.matmul_active_per_token);
  const double model_flops = ModelFlopsPerToken(in.parameters, in.row_tokens);

  StepEstimate estimate;
  estimate.matmul = tokens * products * repeated / machine.gemm_flops / parts;
  estimate.attention =
      tokens * (model_flops - products) * repeated / machine.attention_flops / parts;
  const double updates = tokens * static_cast<double>(in.parameters.mamba_layers *
                                                      in.shape.channels * in.shape.state_dim);
  estimate.scan =
      updates * ((1 + in.recomputed) / machine.scan_forward + 1 / machine.scan_backward) / parts;
  const double stream = static_cast<double>(in.shape.num_blocks() * in.shape.model_dim) * 2;
  estimate.elementwise =
      tokens * stream * kPassesPerBlock / machine.memory_bytes_per_second / parts;

  double sends = 0;
  for (const PlannedCollective& collective : in.communication.collectives) {
    const double seconds = Seconds(machine, collective, Stride(in.mesh, collective));
    const bool shares = collective.what == "weights" || collective.what == "gradients";
    // Those of shares are asked for ahead: what is left is one of three a unit and step.
    const double waits = static_cast<double>(collective.calls) / (shares ? 3 * microbatches : 1);
    estimate.latency +=
        waits * std::log2(static_cast<double>(collective.size)) * machine.latency_seconds;
    if (shares) {
      estimate.weights += seconds / microbatches;
    } else if (collective.what == kExpertRows) {
      estimate.exchange += seconds / microbatches;
    } else if (collective.what == "gradients of replicas") {
      estimate.replicas += seconds;
    } else if (collective.operation == CollectiveOperation::kSend) {
      sends += seconds / microbatches;
    } else if (collective.ranks == "tensor" || collective.ranks == "context") {
      estimate.exposed += seconds / microbatches;
    }
  }
  estimate.exposed += sends;
  const double compute = estimate.compute();
  const double microbatch = std::max(compute, estimate.weights) +
                            machine.interference * std::min(compute, estimate.weights) +
                            (1 - machine.exchange_overlap) * estimate.exchange + estimate.exposed;
  estimate.optimizer = kOptimizerBytesPerParameter * static_cast<double>(in.parameters_of_rank) /
                       machine.optimizer_bytes_per_second;
  estimate.bubble = (stages - 1) * microbatch / static_cast<double>(in.chunks);
  estimate.step = microbatches * microbatch + estimate.bubble + estimate.replicas +
                  estimate.optimizer + estimate.latency;
  const double all_tokens =
      tokens * microbatches * static_cast<double>(in.mesh.data_parallel_size());
  estimate.tokens_per_second = all_tokens / estimate.step;
  estimate.mfu = estimate.tokens_per_second * model_flops /
                 (machine.peak_flops * static_cast<double>(in.mesh.world().size()));
  return estimate;
}

}  // namespace plait
