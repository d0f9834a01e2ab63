#include "parallel/parameter_sharder.h"

#include <algorithm>
#include <unordered_set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/status_macros.h"
#include "parallel/element_reduction.h"

namespace plait {
namespace {

constexpr std::array<MeshGroup, kNumMeshGroups> kGroups = {MeshGroup::kData, MeshGroup::kSequence,
                                                           MeshGroup::kExpertData};
absl::Status CheckUnits(const std::vector<ParameterUnit>& units) {
  std::unordered_set<std::string> names;
  for (const ParameterUnit& unit : units) {
    for (const Parameter* parameter : unit.parameters) {
      if (!names.insert(parameter->name).second) {
        return absl::AlreadyExistsError(
            absl::StrCat(parameter->name, ": the name occurs twice, again in unit ", unit.name));
      }
      if (parameter->dtype != DType::kBf16 && parameter->dtype != DType::kF32 &&
          parameter->dtype != DType::kF64) {
        return absl::InvalidArgumentError(absl::StrCat(
            parameter->name, ": expected dtype bf16, f32 or f64, got ", Name(parameter->dtype)));
      }
      // Gradients of all units lie in one array.
      if (StatisticsDType(parameter->dtype) != StatisticsDType(units[0].parameters[0]->dtype)) {
        return absl::InvalidArgumentError(absl::StrCat(
            parameter->name, ": is ", Name(parameter->dtype), ", ", units[0].parameters[0]->name,
            " is ", Name(units[0].parameters[0]->dtype), ": f64 is for all parameters or none"));
      }
    }
  }
  return absl::OkStatus();
}

// Bytes of all slots in a window; more slots than two only while they stay below.
constexpr size_t kExchangeBytes = size_t{256} << 20;

std::array<int64_t, kNumMeshGroups> SectionParts(const DeviceMesh& mesh,
                                                 const SharderOptions& options) {
  std::array<int64_t, kNumMeshGroups> parts;
  for (const MeshGroup group : kGroups) {
    const DeviceMesh::Group& ranks = mesh.group(group);
    // Canonical: replicas divide a share's reduction among them.
    parts[static_cast<int>(group)] = options.canonical ? ranks.owners->size() : ranks.shard->size();
  }
  return parts;
}

}  // namespace

int NumExchangeSlots(size_t largest_unit_bytes) {
  return static_cast<int>(std::clamp<size_t>(kExchangeBytes / largest_unit_bytes, 2, 4));
}

std::vector<std::vector<SectionLayout>> SectionLayouts(const DeviceMesh& mesh,
                                                       const std::vector<ParameterUnit>& units,
                                                       const SharderOptions& options) {
  const std::array<int64_t, kNumMeshGroups> parts = SectionParts(mesh, options);
  std::vector<std::vector<SectionLayout>> layouts;
  for (const ParameterUnit& unit : units) {
    // Groups of the same ranks make one section.
    for (Parameter* parameter : unit.parameters) {
      const bool same =
          parameter->group == MeshGroup::kSequence
              ? mesh.size(MeshAxis::kTensor) == 1
              : parameter->group == MeshGroup::kExpertData && mesh.size(MeshAxis::kExpert) == 1;
      if (same) parameter->group = MeshGroup::kData;
    }
    layouts.push_back(unit.is_elsewhere ? std::vector<SectionLayout>()
                                        : LayOutSections(unit.parameters, parts));
  }
  return layouts;
}

absl::StatusOr<std::unique_ptr<ParameterSharder>> ParameterSharder::Create(
    Execution& execution, const DeviceMesh& mesh, std::vector<ParameterUnit> units,
    const SharderOptions& options) {
  PLAIT_RETURN_IF_ERROR(CheckUnits(units));
  if (options.canonical && mesh.size(MeshAxis::kExpert) > 1) {
    return absl::UnimplementedError(
        "reduction CANONICAL: only without an expert axis; set parallel.expert = 1");
  }
  std::unique_ptr<ParameterSharder> sharder(new ParameterSharder(execution, mesh));
  sharder->units_ = std::move(units);
  sharder->options_ = options;
  sharder->shares_memory_ = !options.messages_only && execution.device().kind == DeviceKind::kCpu;
  PLAIT_RETURN_IF_ERROR(sharder->LayOut(execution));
  PLAIT_RETURN_IF_ERROR(sharder->AllocateValues(execution));
  sharder->AllocateShares(execution);
  PLAIT_RETURN_IF_ERROR(sharder->MakeExchanges());
  sharder->MakeShardedParameters();
  return sharder;
}

absl::Status ParameterSharder::LayOut(Execution&) {
  for (std::vector<SectionLayout>& layouts : SectionLayouts(mesh_, units_, options_)) {
    sections_.emplace_back();
    for (SectionLayout& layout : layouts) sections_.back().push_back({.layout = std::move(layout)});
  }
  return absl::OkStatus();
}

// Values and this rank's compute share: in a window of the host where there is one.
absl::Status ParameterSharder::AllocateValues(Execution& execution) {
  for (const MeshGroup group : kGroups) {
    const int64_t ranks = shares(group);
    size_t bytes = 0;
    for (const auto& unit : sections_) {
      for (const Section& section : unit) {
        if (section.layout.group != group) continue;
        bytes += static_cast<size_t>(section.layout.elements) * SizeOf(section.layout.dtype);
      }
    }
    std::unique_ptr<SharedWindow>& window = windows_[static_cast<int>(group)];
    if (ranks > 1 && bytes > 0 && shares_memory_) {
      PLAIT_ASSIGN_OR_RETURN(
          window, SharedWindow::Create(*mesh_.group(group).shard, bytes, /*num_flags=*/0));
      if (window != nullptr) window_bytes_ += static_cast<int64_t>(bytes) / ranks;
    }
    size_t offset = 0;
    for (size_t u = 0; u < sections_.size(); ++u) {
      for (Section& section : sections_[u]) {
        if (section.layout.group != group) continue;
        const SectionLayout& layout = section.layout;
        const int64_t share = layout.share(ranks);
        const int64_t begin = mesh_.group(group).shard->rank() * share;
        if (window != nullptr) {
          section.values = window->tensor(offset, layout.dtype, {layout.elements});
          offset += section.values.bytes();
          section.compute = section.values.Flat(begin, {share});
        } else if (ranks == 1) {
          section.values = execution.Zeros(layout.dtype, {layout.elements});
          section.compute = section.values;
        } else {
          section.compute = execution.Zeros(layout.dtype, {share});
        }
        if (section.values) SetValues(static_cast<int>(u), section);
      }
    }
  }
  return absl::OkStatus();
}

void ParameterSharder::AllocateShares(Execution& execution) {
  for (const MeshGroup group : kGroups) {
    int64_t elements = 0;
    DType master = DType::kF32;
    for (const auto& unit : sections_) {
      for (const Section& section : unit) {
        if (section.layout.group != group) continue;
        elements += section.layout.share(shares(group));
        master = StatisticsDType(section.layout.dtype);
      }
    }
    Tensor& gradients = gradients_[static_cast<int>(group)];
    if (elements > 0) gradients = execution.Zeros(master, {elements});
    int64_t offset = 0;
    for (auto& unit : sections_) {
      for (Section& section : unit) {
        if (section.layout.group != group) continue;
        const int64_t share = section.layout.share(shares(group));
        section.gradient = gradients.Flat(offset, {share});
        section.master =
            section.layout.dtype == master ? section.compute : execution.Zeros(master, {share});
        offset += share;
      }
    }
  }
}

absl::Status ParameterSharder::MakeExchanges() {
  for (const MeshGroup group : kGroups) {
    const DeviceMesh::Group& ranks = mesh_.group(group);
    Communicator& owners = options_.canonical ? *ranks.owners : *ranks.shard;
    size_t largest = 0;
    bool held = false;
    for (size_t u = 0; u < sections_.size(); ++u) {
      size_t bytes = 0;
      for (const Section& section : sections_[u]) {
        if (section.layout.group != group) continue;
        bytes += static_cast<size_t>(section.layout.elements) * SizeOf(section.gradient.dtype());
      }
      largest = std::max(largest, bytes);
      held = held || (bytes > 0 && units_[u].held);
    }
    if (largest == 0 || (owners.size() == 1 && !options_.canonical)) continue;
    std::unique_ptr<GradientExchange>& exchange = exchanges_[static_cast<int>(group)];
    const int slots = NumExchangeSlots(largest);
    const int64_t buffer_bytes = static_cast<int64_t>(largest) * (slots + (held ? 1 : 0));
    gradient_buffer_bytes_ += buffer_bytes;
    if (shares_memory_) {
      PLAIT_ASSIGN_OR_RETURN(exchange, MakeSharedGradientExchange(owners, largest, slots, held));
    }
    if (exchange != nullptr) window_bytes_ += buffer_bytes;
    if (exchange == nullptr) {
      exchange = MakeMessageGradientExchange(owners, options_.gradient_wire);
    }
  }
  return absl::OkStatus();
}

void ParameterSharder::MakeShardedParameters() {
  for (size_t u = 0; u < units_.size(); ++u) {
    if (units_[u].is_elsewhere) {
      for (const Parameter* parameter : units_[u].parameters) NameParameterElsewhere(*parameter);
      continue;
    }
    std::vector<ShardedParameter> unit(units_[u].parameters.size());
    for (Section& section : sections_[u]) {
      const DeviceMesh::Group& ranks = mesh_.group(section.layout.group);
      const int64_t share = section.layout.share(ranks.shard->size());
      const int64_t begin = ranks.shard->rank() * share;
      for (size_t k = 0; k < section.layout.members.size(); ++k) {
        Parameter& parameter = *units_[u].parameters[section.layout.members[k]];
        ShardedParameter& shard = unit[section.layout.members[k]];
        const int64_t offset = section.layout.offsets[k];
        const int64_t size = parameter.shape.num_elements();
        shard.name = parameter.name;
        shard.spec = parameter.box.value_or(ShardSpec::Whole(parameter.shape));
        shard.spec.elements = PartInShare(offset, size, begin, begin + share);
        shard.replica = ranks.replicate->rank();
        shard.replicas = ranks.replicate->size();
        const int64_t count = shard.spec.elements.end - shard.spec.elements.begin;
        const int64_t local = count == 0 ? 0 : offset + shard.spec.elements.begin - begin;
        shard.master = section.master.Flat(local, {count});
        shard.gradient = section.gradient.Flat(local, {count});
        shard.compute = section.compute.Flat(local, {count});
        if (direct(section.layout.group)) {
          parameter.gradient = section.gradient.Flat(offset, parameter.shape);
        }
      }
    }
    std::move(unit.begin(), unit.end(), std::back_inserter(sharded_));
  }
}

void ParameterSharder::NameParameterElsewhere(const Parameter& parameter) {
  const Tensor nothing = Tensor::OnHost(StatisticsDType(parameter.dtype), {0});
  ShardedParameter shard{.name = parameter.name,
                         .spec = parameter.box.value_or(ShardSpec::Whole(parameter.shape)),
                         .master = nothing,
                         .gradient = nothing,
                         .compute = Tensor::OnHost(parameter.dtype, {0})};
  shard.spec.elements = {0, 0};
  sharded_.push_back(std::move(shard));
}

void ParameterSharder::SetValues(int unit, Section& section) {
  for (size_t k = 0; k < section.layout.members.size(); ++k) {
    Parameter& parameter = *units_[unit].parameters[section.layout.members[k]];
    parameter.value =
        section.values ? section.values.Flat(section.layout.offsets[k], parameter.shape) : Tensor();
  }
}

absl::Status ParameterSharder::StartGather(Execution& execution, int unit, Section& section) {
  if (section.values) return absl::OkStatus();
  section.values = execution.Empty(section.layout.dtype, {section.layout.elements});
  SetValues(unit, section);
  PLAIT_ASSIGN_OR_RETURN(section.gathered,
                         mesh_.group(section.layout.group)
                             .shard->AllGather(execution.communication_after_compute(),
                                               section.compute.vector(), section.values.vector()));
  return absl::OkStatus();
}

absl::Status ParameterSharder::Unshard(Execution& execution, int unit) {
  PLAIT_CHECK(unit >= 0 && unit < num_units());
  for (Section& section : sections_[unit]) {
    PLAIT_RETURN_IF_ERROR(Annotate(StartGather(execution, unit, section), units_[unit].name));
    PLAIT_RETURN_IF_ERROR(Annotate(execution.compute().Wait(section.gathered), units_[unit].name));
    section.gathered = Event();
  }
  return absl::OkStatus();
}

absl::Status ParameterSharder::Prefetch(Execution& execution, int unit) {
  // One past either end of a stack is asked for by the loop over it: nothing to fetch.
  PLAIT_CHECK(unit >= -1 && unit <= num_units());
  if (unit < 0 || unit == num_units()) return absl::OkStatus();
  for (Section& section : sections_[unit]) {
    PLAIT_RETURN_IF_ERROR(Annotate(StartGather(execution, unit, section), units_[unit].name));
  }
  return absl::OkStatus();
}

absl::Status ParameterSharder::Reshard(Execution& execution, int unit) {
  PLAIT_CHECK(unit >= 0 && unit < num_units());
  for (Section& section : sections_[unit]) {
    const int group = static_cast<int>(section.layout.group);
    if (shares(section.layout.group) == 1 || windows_[group] != nullptr) continue;
    PLAIT_RETURN_IF_ERROR(execution.compute().Wait(section.gathered));
    section.gathered = Event();
    section.values = Tensor();
    SetValues(unit, section);
  }
  return absl::OkStatus();
}

absl::Status ParameterSharder::ZeroGradients() {
  for (Tensor& gradients : gradients_) {
    if (gradients) PLAIT_RETURN_IF_ERROR(execution_.FillZero(gradients));
  }
  return absl::OkStatus();
}

absl::Status ParameterSharder::PrepareGradients(Execution& execution, int unit) {
  PLAIT_CHECK(unit >= 0 && unit < num_units());
  Outstanding outstanding{.unit = unit, .leases = {}};
  bool any = false;
  for (const MeshGroup group : kGroups) {
    std::vector<int64_t> elements;
    std::vector<Section*> members;
    for (Section& section : sections_[unit]) {
      if (section.layout.group != group) continue;
      elements.push_back(section.layout.elements);
      members.push_back(&section);
    }
    if (members.empty() || direct(group)) continue;
    any = true;
    GradientExchange& exchange = *exchanges_[static_cast<int>(group)];
    while (exchange.IsFull(units_[unit].held)) PLAIT_RETURN_IF_ERROR(FinishOldest(execution));
    PLAIT_ASSIGN_OR_RETURN(
        GradientExchange::Lease lease,
        exchange.Acquire(execution, members[0]->gradient.dtype(), elements, units_[unit].held));
    for (size_t i = 0; i < members.size(); ++i) {
      const SectionLayout& layout = members[i]->layout;
      for (size_t k = 0; k < layout.members.size(); ++k) {
        Parameter& parameter = *units_[unit].parameters[layout.members[k]];
        parameter.gradient = lease.buffers[i].Flat(layout.offsets[k], parameter.shape);
      }
    }
    outstanding.leases[static_cast<int>(group)] = std::move(lease);
  }
  if (any) outstanding_.push_back(std::move(outstanding));
  return absl::OkStatus();
}

absl::Status ParameterSharder::ReduceGradients(Execution& execution, int unit) {
  PLAIT_CHECK(unit >= 0 && unit < num_units());
  // First this unit's start, that others need not wait; then those started before that are ready,
  // in their order: the microbatches of a unit add up one after the other.
  const auto own = std::find_if(
      outstanding_.begin(), outstanding_.end(),
      [unit](const Outstanding& other) { return other.unit == unit && !other.started; });
  if (own == outstanding_.end()) return absl::OkStatus();  // every group of it is direct
  own->started = true;
  for (const MeshGroup group : kGroups) {
    auto& lease = own->leases[static_cast<int>(group)];
    if (!lease) continue;
    PLAIT_RETURN_IF_ERROR(exchanges_[static_cast<int>(group)]->Start(execution, *lease));
  }
  for (const Section& section : sections_[unit]) {
    if (direct(section.layout.group)) continue;
    for (const int member : section.layout.members) {
      units_[unit].parameters[member]->gradient = Tensor();
    }
  }
  for (size_t i = 0; i < outstanding_.size();) {
    if (!outstanding_[i].started) {
      ++i;
      continue;
    }
    if (outstanding_[i].unit == unit || !IsReady(outstanding_[i])) break;
    PLAIT_RETURN_IF_ERROR(Finish(execution, outstanding_[i]));
    outstanding_.erase(outstanding_.begin() + static_cast<int64_t>(i));
  }
  return absl::OkStatus();
}

bool ParameterSharder::IsReady(const Outstanding& outstanding) const {
  for (const MeshGroup group : kGroups) {
    const auto& lease = outstanding.leases[static_cast<int>(group)];
    if (lease && !exchanges_[static_cast<int>(group)]->IsReady(*lease)) return false;
  }
  return true;
}

absl::Status ParameterSharder::FinishOldest(Execution& execution) {
  const auto oldest = std::find_if(outstanding_.begin(), outstanding_.end(),
                                   [](const Outstanding& other) { return other.started; });
  PLAIT_CHECK(oldest != outstanding_.end());
  PLAIT_RETURN_IF_ERROR(Finish(execution, *oldest));
  outstanding_.erase(oldest);
  return absl::OkStatus();
}

absl::Status ParameterSharder::Finish(Execution& execution, Outstanding& outstanding) {
  for (const MeshGroup group : kGroups) {
    auto& lease = outstanding.leases[static_cast<int>(group)];
    if (!lease) continue;
    std::vector<Section*> members;
    for (Section& section : sections_[outstanding.unit]) {
      if (section.layout.group == group) members.push_back(&section);
    }
    PLAIT_RETURN_IF_ERROR(Annotate(
        exchanges_[static_cast<int>(group)]->Finish(
            execution, *lease,
            [&](int index, DType dtype, std::span<const void* const> pieces, int64_t elements) {
              return Fold(execution, *members[index], dtype, pieces, elements);
            }),
        units_[outstanding.unit].name));
  }
  return absl::OkStatus();
}

absl::Status ParameterSharder::Fold(Execution& execution, Section& section, DType dtype,
                                    std::span<const void* const> pieces, int64_t elements) {
  const bool round = options_.gradient_wire == DType::kBf16 && dtype == DType::kF32;
  if (!options_.canonical) {
    return AccumulateElements(execution, dtype, pieces, round, section.gradient.vector());
  }
  // Pieces come in the order of the owners (share, then replica); leaves count by data-parallel
  // rank (replica, then share).
  const DeviceMesh::Group& ranks = mesh_.group(section.layout.group);
  const int replicas = ranks.replicate->size();
  const int group_shares = ranks.shard->size();
  for (int replica = 0; replica < replicas; ++replica) {
    for (int share = 0; share < group_shares; ++share) {
      const void* piece = pieces[static_cast<size_t>(share * replicas + replica)];
      Tensor rounded;
      if (round) {
        rounded = execution.Empty(DType::kBf16, {elements});
        PLAIT_RETURN_IF_ERROR(
            ConvertElements(execution, {piece, dtype, elements}, rounded.vector()));
        piece = rounded.raw();
      }
      PLAIT_RETURN_IF_ERROR(section.leaves.Add(execution, piece, round ? DType::kBf16 : dtype,
                                               section.gradient.dtype(), elements));
    }
  }
  return absl::OkStatus();
}

absl::Status ParameterSharder::FinishGradients(Execution& execution) {
  for (Outstanding& outstanding : outstanding_) {
    PLAIT_CHECK(outstanding.started);
    PLAIT_RETURN_IF_ERROR(Finish(execution, outstanding));
  }
  outstanding_.clear();
  PLAIT_RETURN_IF_ERROR(ReduceOverReplicas(execution));
  for (int unit = 0; unit < num_units(); ++unit) {
    PLAIT_RETURN_IF_ERROR(Reshard(execution, unit));
  }
  for (const auto& window : windows_) {
    if (window != nullptr) PLAIT_RETURN_IF_ERROR(window->Meet());
  }
  return absl::OkStatus();
}

absl::Status ParameterSharder::ReduceOverReplicas(Execution& execution) {
  if (options_.canonical) {
    for (auto& unit : sections_) {
      for (Section& section : unit) PLAIT_RETURN_IF_ERROR(TakeCanonicalSums(execution, section));
    }
    return absl::OkStatus();
  }
  for (const MeshGroup group : kGroups) {
    Communicator& replicate = *mesh_.group(group).replicate;
    Tensor& gradients = gradients_[static_cast<int>(group)];
    if (!gradients || replicate.size() == 1) continue;
    PLAIT_ASSIGN_OR_RETURN(const Event reduced,
                           replicate.AllReduce(execution.communication_after_compute(),
                                               gradients.vector(), ReduceOperation::kSum));
    PLAIT_RETURN_IF_ERROR(execution.compute().Wait(reduced));
  }
  return absl::OkStatus();
}

// Replicas have summed neighbouring parts of their share: each gets the others'.
absl::Status ParameterSharder::TakeCanonicalSums(Execution& execution, Section& section) {
  Communicator& replicate = *mesh_.group(section.layout.group).replicate;
  const int64_t part = section.gradient.num_elements() / replicate.size();
  Tensor own = section.gradient.Flat(replicate.rank() * part, {part});
  PLAIT_RETURN_IF_ERROR(section.leaves.Take(execution, own.vector()));
  if (replicate.size() == 1) return absl::OkStatus();
  PLAIT_ASSIGN_OR_RETURN(const Event gathered,
                         replicate.AllGather(execution.communication_after_compute(), own.vector(),
                                             section.gradient.vector()));
  return execution.compute().Wait(gathered);
}

absl::Status ParameterSharder::PublishValues() {
  for (const auto& window : windows_) {
    if (window != nullptr) PLAIT_RETURN_IF_ERROR(window->Meet());
  }
  return absl::OkStatus();
}

absl::Status ParameterSharder::RefreshComputeValues() {
  for (ShardedParameter& parameter : sharded_) {
    if (parameter.compute.dtype() != DType::kBf16) continue;
    PLAIT_RETURN_IF_ERROR(
        ConvertElements(execution_, parameter.master.vector(), parameter.compute.vector()));
  }
  return PublishValues();
}

void ParameterSharder::AppendState(NamedState& state) {
  for (const ShardedParameter& parameter : sharded_) {
    state.tensors.push_back({absl::StrCat("parameters/", parameter.name), parameter.master,
                             parameter.spec, parameter.replica, parameter.replicas});
  }
}

int64_t ParameterSharder::num_parameters() const {
  int64_t elements = 0;
  for (const ShardedParameter& parameter : sharded_) {
    elements += parameter.spec.logical_shape.num_elements();
  }
  return elements;
}

std::vector<std::vector<SectionLayout>> ParameterSharder::layouts() const {
  std::vector<std::vector<SectionLayout>> layouts;
  for (const auto& unit : sections_) {
    layouts.emplace_back();
    for (const Section& section : unit) layouts.back().push_back(section.layout);
  }
  return layouts;
}

bool ParameterSharder::has_windows() const {
  return shares(MeshGroup::kData) == 1 || windows_[static_cast<int>(MeshGroup::kData)] != nullptr;
}

ParameterSharder::Memory ParameterSharder::memory() const {
  Memory memory{.gradient_buffers = gradient_buffer_bytes_};
  for (const auto& unit : sections_) {
    for (const Section& section : unit) {
      memory.values += static_cast<int64_t>(section.compute.bytes());
      memory.gradients += static_cast<int64_t>(section.gradient.bytes());
      if (section.master.raw() != section.compute.raw()) {
        memory.masters += static_cast<int64_t>(section.master.bytes());
      }
    }
  }
  return memory;
}

}  // namespace plait
