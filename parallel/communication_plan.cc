#include "parallel/communication_plan.h"

#include <array>

#include "absl/strings/str_cat.h"

namespace plait {
namespace {

using enum CollectiveOperation;
using enum MeshAxis;

constexpr int64_t kDouble = 8;
constexpr int64_t kCounts = 2;  // weights and real tokens, of a microbatch
constexpr int64_t kLosses = 4;  // of a microbatch

int64_t Bytes(CollectiveOperation operation, int64_t ranks, int64_t elements, int64_t width) {
  switch (operation) {
    case kAllGather:
    case kReduceScatter:
      return (ranks - 1) * elements * width;
    case kAllReduceSum:
    case kAllReduceMax:
      return 2 * (ranks - 1) * ((elements + ranks - 1) / ranks) * width;
    default:
      return elements * width;
  }
}

// What this stage sends.
void AddStages(const DeviceMesh& mesh, const StepShape& step, CommunicationPlan& plan) {
  const int64_t stages = mesh.size(kPipeline);
  for (int64_t chunk = 0; chunk < step.chunks; ++chunk) {
    const int64_t part = chunk * stages + mesh.coordinate(kPipeline);
    if (part + 1 < step.chunks * stages) {
      plan.Add("stream between stages", "pipeline", kSend, stages,
               2 * step.stream_bytes + (4 + 2 * step.experts) * kDouble, 1, step.microbatches);
    }
    if (part > 0) {
      plan.Add("gradients between stages", "pipeline", kSend, stages,
               step.stream_bytes + step.experts * kDouble, 1, step.microbatches);
    }
  }
}

}  // namespace

void CommunicationPlan::Add(const std::string& what, const std::string& axes,
                            CollectiveOperation operation, int64_t ranks, int64_t elements,
                            int64_t width, int64_t calls) {
  if (ranks <= 1 || elements == 0 || calls == 0) return;
  const int64_t bytes = calls * Bytes(operation, ranks, elements, width);
  for (PlannedCollective& other : collectives) {
    if (other.what != what || other.ranks != axes || other.operation != operation) continue;
    other.calls += calls;
    other.bytes += bytes;
    return;
  }
  collectives.push_back({what, axes, operation, ranks, calls, bytes});
}

int64_t CommunicationPlan::total() const {
  int64_t bytes = 0;
  for (const PlannedCollective& collective : collectives) bytes += collective.bytes;
  return bytes;
}

std::string AxesText(const DeviceMesh& mesh, std::initializer_list<MeshAxis> axes) {
  std::string text;
  for (const MeshAxis axis : axes) {
    if (mesh.size(axis) == 1) continue;
    absl::StrAppend(&text, text.empty() ? "" : " x ", std::string(Name(axis)));
  }
  return text.empty() ? "-" : text;
}

std::string ShareAxesText(const DeviceMesh& mesh, MeshGroup group) {
  switch (group) {
    case MeshGroup::kData:
      return AxesText(mesh, {kShard, kContext});
    case MeshGroup::kSequence:
      return AxesText(mesh, {kShard, kContext, kTensor});
    case MeshGroup::kExpertData:
      return mesh.size(kExpert) == 1
                 ? AxesText(mesh, {kShard, kContext})
                 : absl::StrCat(AxesText(mesh, {kShard, kContext}), " / expert");
  }
  return "?";
}

CommunicationPlan PlanStep(const DeviceMesh& mesh,
                           const std::vector<std::vector<SectionLayout>>& units,
                           const SharderOptions& options, bool windows, const StepShape& step) {
  CommunicationPlan plan;
  std::array<int64_t, kNumMeshGroups> gradient_elements{};
  int64_t gradient_width = 4;
  const std::string replicas_text = AxesText(mesh, {kReplicate});
  for (size_t u = 0; u < units.size(); ++u) {
    const bool is_end = u == 0 || u + 1 == units.size();
    for (const SectionLayout& section : units[u]) {
      const DeviceMesh::Group& group = mesh.group(section.group);
      const int64_t shares = group.shard->size();
      const std::string axes = ShareAxesText(mesh, section.group);
      const auto width = static_cast<int64_t>(SizeOf(section.dtype));
      gradient_width = static_cast<int64_t>(SizeOf(StatisticsDType(section.dtype)));
      if (!windows) {
        plan.Add("weights", axes, kAllGather, shares, section.share(shares), width,
                 step.microbatches * (is_end ? 1 : 2));
      }
      const int64_t owners = options.canonical ? group.owners->size() : shares;
      const bool narrow = !windows && options.gradient_wire == DType::kBf16 && gradient_width == 4;
      plan.Add(
          "gradients",
          options.canonical && replicas_text != "-" ? absl::StrCat("replicate x ", axes) : axes,
          kAllToAll, owners, (owners - 1) * section.share(owners), narrow ? 2 : gradient_width,
          step.microbatches);
      const int64_t replicas = group.replicate->size();
      if (options.canonical) {
        plan.Add("gradients of replicas", replicas_text, kAllGather, replicas,
                 section.share(shares * replicas), gradient_width);
      }
      gradient_elements[static_cast<int>(section.group)] += section.share(shares);
    }
  }
  for (int group = 0; group < kNumMeshGroups; ++group) {
    if (options.canonical || gradient_elements[group] == 0) continue;
    plan.Add("gradients of replicas", replicas_text, kAllReduceSum,
             mesh.group(static_cast<MeshGroup>(group)).replicate->size(), gradient_elements[group],
             gradient_width);
  }
  AddStages(mesh, step, plan);
  const int64_t ranks = mesh.world().size();
  plan.Add("counts and losses", "world", kAllGather, ranks, step.microbatches * (kCounts + kLosses),
           kDouble);
  plan.Add("activation watch", "world", kAllReduceSum, ranks, step.watch_sums, kDouble);
  plan.Add("activation watch", "world", kAllReduceMax, ranks, step.watch_maxima, kDouble);
  plan.Add("gradient norm", AxesText(mesh, {kPipeline, kShard, kContext, kTensor}), kAllReduceSum,
           mesh.model().size(), kNormWords, kDouble);
  plan.Add("agreement", "world", kAllReduceMax, ranks, 1, kDouble);
  return plan;
}

}  // namespace plait
