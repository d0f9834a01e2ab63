#include "parallel/communication_plan.h"

#include <algorithm>

namespace plait {
namespace {

constexpr int64_t kDouble = 8;
constexpr int64_t kCounts = 2;  // weights and real tokens, of a microbatch
constexpr int64_t kLosses = 4;  // of a microbatch

int64_t AllReduceBytes(int64_t elements, int64_t width, int64_t ranks) {
  return 2 * (ranks - 1) * ((elements + ranks - 1) / ranks) * width;
}

// Sent by this stage.
int64_t StageBytes(const DeviceMesh& mesh, const StepShape& step) {
  const int64_t stages = mesh.size(MeshAxis::kPipeline);
  if (stages == 1) return 0;
  int64_t bytes = 0;
  for (int64_t chunk = 0; chunk < step.chunks; ++chunk) {
    const int64_t part = chunk * stages + mesh.coordinate(MeshAxis::kPipeline);
    if (part + 1 < step.chunks * stages) {
      bytes += 2 * step.stream_bytes + (4 + 2 * step.experts) * kDouble;
    }
    if (part > 0) bytes += step.stream_bytes + step.experts * kDouble;
  }
  return step.microbatches * bytes;
}

}  // namespace

CommunicationPlan PlanStep(const DeviceMesh& mesh,
                           const std::vector<std::vector<SectionLayout>>& units,
                           const SharderOptions& options, bool windows, const StepShape& step) {
  CommunicationPlan plan;
  std::array<int64_t, kNumMeshGroups> gradient_elements{};
  int64_t gradient_width = 4;
  for (size_t u = 0; u < units.size(); ++u) {
    const bool is_end = u == 0 || u + 1 == units.size();
    for (const SectionLayout& section : units[u]) {
      const DeviceMesh::Group& group = mesh.group(section.group);
      const int64_t shares = group.shard->size();
      const int64_t width = static_cast<int64_t>(SizeOf(section.dtype));
      gradient_width = static_cast<int64_t>(SizeOf(StatisticsDType(section.dtype)));
      if (!windows) {
        plan.gather_bytes +=
            step.microbatches * (is_end ? 1 : 2) * (shares - 1) * section.share(shares) * width;
      }
      const int64_t owners = options.canonical ? group.owners->size() : shares;
      const bool narrow = !windows && options.gradient_wire == DType::kBf16 && gradient_width == 4;
      plan.gradient_bytes +=
          step.microbatches * (owners - 1) * section.share(owners) * (narrow ? 2 : gradient_width);
      const int64_t replicas = group.replicate->size();
      if (options.canonical) {
        plan.replica_bytes += (replicas - 1) * section.share(shares * replicas) * gradient_width;
      }
      gradient_elements[static_cast<int>(section.group)] += section.share(shares);
    }
  }
  for (int group = 0; group < kNumMeshGroups; ++group) {
    if (options.canonical || gradient_elements[group] == 0) continue;
    plan.replica_bytes +=
        AllReduceBytes(gradient_elements[group], gradient_width,
                       mesh.group(static_cast<MeshGroup>(group)).replicate->size());
  }
  plan.stage_bytes = StageBytes(mesh, step);
  const int64_t world = mesh.world().size();
  plan.control_bytes = (world - 1) * step.microbatches * (kCounts + kLosses) * kDouble +
                       AllReduceBytes(step.watch_sums, kDouble, world) +
                       AllReduceBytes(step.watch_maxima, kDouble, world) +
                       AllReduceBytes(kNormWords, kDouble, mesh.model().size()) +
                       AllReduceBytes(1, kDouble, world);
  return plan;
}

}  // namespace plait
