#include "parallel/sharder_memory.h"

#include <algorithm>
#include <utility>

#include "base/check.h"

namespace plait {
namespace {

int64_t Width(DType dtype) { return static_cast<int64_t>(SizeOf(dtype)); }

}  // namespace

SharderMemory::SharderMemory(MemoryTimeline& timeline, const DeviceMesh& mesh,
                             const std::vector<ParameterUnit>& units, const SharderOptions& options,
                             bool windows)
    : timeline_(timeline),
      mesh_(mesh),
      options_(options),
      windows_(windows && !options.messages_only) {
  const std::vector<std::vector<SectionLayout>> layouts = SectionLayouts(mesh, units, options);
  for (size_t u = 0; u < units.size(); ++u) {
    units_.push_back({.sections = {}, .held = units[u].held});
    if (units[u].is_elsewhere) num_elsewhere_ += static_cast<int>(units[u].parameters.size());
    for (const SectionLayout& layout : layouts[u]) {
      Section section{.layout = layout};
      for (const int member : layout.members) {
        section.sizes.push_back(units[u].parameters[member]->shape.num_elements());
      }
      units_.back().sections.push_back(std::move(section));
    }
  }
  AllocateStates();
  AllocateExchanges();
}

int64_t SharderMemory::GradientBytes(const Section& section) const {
  return section.layout.elements * Width(StatisticsDType(section.layout.dtype));
}

void SharderMemory::AllocateStates() {
  std::array<int64_t, kNumMeshGroups> elements{};
  DType statistics = DType::kF32;
  for (Unit& unit : units_) {
    for (Section& section : unit.sections) {
      const SectionLayout& layout = section.layout;
      const int64_t share = layout.share(shares(section));
      statistics = StatisticsDType(layout.dtype);
      elements[static_cast<int>(layout.group)] += share;
      const bool in_window = windows_ && shares(section) > 1;
      states_.push_back(timeline_.Allocate(
          share * Width(layout.dtype), MemoryClass::kComputeWeights,
          in_window ? MemoryTimeline::Rounding::kNone : MemoryTimeline::Rounding::kAllocator));
      if (layout.dtype != statistics) {
        states_.push_back(timeline_.Allocate(statistics, share, MemoryClass::kMasters));
      }
    }
  }
  for (const int64_t size : elements) {
    if (size == 0) continue;
    states_.push_back(timeline_.Allocate(statistics, size, MemoryClass::kGradients));
  }
}

void SharderMemory::AllocateExchanges() {
  for (int g = 0; g < kNumMeshGroups; ++g) {
    const auto mesh_group = static_cast<MeshGroup>(g);
    int64_t largest = 0;
    bool held = false;
    for (const Unit& unit : units_) {
      int64_t bytes = 0;
      for (const Section& section : unit.sections) {
        if (section.layout.group == mesh_group) bytes += GradientBytes(section);
      }
      largest = std::max(largest, bytes);
      held = held || (bytes > 0 && unit.held);
    }
    const DeviceMesh::Group& ranks = mesh_.group(mesh_group);
    const int owners = options_.canonical ? ranks.owners->size() : ranks.shard->size();
    exchanges_[g] = largest > 0 && (owners > 1 || options_.canonical);
    if (!exchanges_[g] || !windows_) continue;
    const int slots = NumExchangeSlots(static_cast<size_t>(largest)) + (held ? 1 : 0);
    states_.push_back(timeline_.Allocate(largest * slots, MemoryClass::kGradientBuffers,
                                         MemoryTimeline::Rounding::kNone));
  }
}

void SharderMemory::HoldMoments() {
  for (int i = 0; i < 2 * num_elsewhere_; ++i) {
    states_.push_back(timeline_.Allocate(0, MemoryClass::kOptimizer));
  }
  for (const Unit& unit : units_) {
    for (const Section& section : unit.sections) {
      const DType statistics = StatisticsDType(section.layout.dtype);
      for (const int64_t elements : OwnElements(section)) {
        for (int moment = 0; moment < 2; ++moment) {
          states_.push_back(timeline_.Allocate(statistics, elements, MemoryClass::kOptimizer));
        }
      }
    }
  }
}

std::vector<int64_t> SharderMemory::OwnElements(const Section& section) const {
  std::vector<int64_t> elements;
  const int64_t share = section.layout.share(shares(section));
  const int64_t begin = group(section).shard->rank() * share;
  for (size_t k = 0; k < section.sizes.size(); ++k) {
    const ShardSpec::Range range =
        PartInShare(section.layout.offsets[k], section.sizes[k], begin, begin + share);
    elements.push_back(range.end - range.begin);
  }
  return elements;
}

std::vector<int64_t> SharderMemory::OwnElements() const {
  std::vector<int64_t> elements;
  for (const Unit& unit : units_) {
    for (const Section& section : unit.sections) {
      const std::vector<int64_t> own = OwnElements(section);
      elements.insert(elements.end(), own.begin(), own.end());
    }
  }
  return elements;
}

void SharderMemory::Unshard(int unit) {
  if (unit < 0 || unit >= num_units() || windows_) return;
  for (Section& section : units_[unit].sections) {
    if (section.values || shares(section) == 1) continue;
    section.values = timeline_.Allocate(section.layout.dtype, section.layout.elements,
                                        MemoryClass::kGatheredWeights);
  }
}

void SharderMemory::Prefetch(int unit) { Unshard(unit); }

void SharderMemory::Reshard(int unit) {
  for (Section& section : units_[unit].sections) section.values = nullptr;
}

int SharderMemory::NumLeases() const {
  return static_cast<int>(std::count_if(
      outstanding_.begin(), outstanding_.end(),
      [this](const Outstanding& outstanding) { return !units_[outstanding.unit].held; }));
}

void SharderMemory::PrepareGradients(int unit) {
  Outstanding outstanding{.unit = unit};
  bool any = false;
  if (!units_[unit].held) {
    while (NumLeases() >= kMessageLeases) {
      const auto oldest = std::find_if(outstanding_.begin(), outstanding_.end(),
                                       [](const Outstanding& other) { return other.started; });
      PLAIT_CHECK(oldest != outstanding_.end());
      Finish(*oldest);
      outstanding_.erase(oldest);
    }
  }
  for (const Section& section : units_[unit].sections) {
    if (direct(section.layout.group)) continue;
    any = true;
    if (windows_) continue;
    outstanding.buffers.push_back(
        timeline_.Allocate(GradientBytes(section), MemoryClass::kGradientBuffers));
  }
  if (any) outstanding_.push_back(std::move(outstanding));
}

void SharderMemory::ReduceGradients(int unit) {
  const auto own = std::find_if(
      outstanding_.begin(), outstanding_.end(),
      [unit](const Outstanding& other) { return other.unit == unit && !other.started; });
  if (own == outstanding_.end()) return;
  own->started = true;
  size_t next = 0;
  for (const Section& section : units_[unit].sections) {
    if (direct(section.layout.group) || windows_) continue;
    const int64_t bytes = GradientBytes(section);
    const bool narrow = options_.gradient_wire == DType::kBf16 &&
                        StatisticsDType(section.layout.dtype) == DType::kF32;
    own->sent.push_back(narrow ? timeline_.Allocate(bytes / 2, MemoryClass::kGradientBuffers)
                               : own->buffers[next]);
    own->received.push_back(
        timeline_.Allocate(narrow ? bytes / 2 : bytes, MemoryClass::kGradientBuffers));
    ++next;
  }
  own->buffers.clear();
  for (size_t i = 0; i < outstanding_.size();) {
    if (!outstanding_[i].started) {
      ++i;
      continue;
    }
    if (outstanding_[i].unit == unit) break;
    Finish(outstanding_[i]);
    outstanding_.erase(outstanding_.begin() + static_cast<int64_t>(i));
  }
}

void SharderMemory::Finish(Outstanding& outstanding) {
  if (options_.canonical) {
    for (Section& section : units_[outstanding.unit].sections) {
      const int64_t owners = group(section).owners->size();
      for (int64_t leaf = 0; leaf < owners; ++leaf) AddLeaf(section);
    }
  }
  outstanding.sent.clear();
  outstanding.received.clear();
}

// As CanonicalSum adds: a carry that moves up while there is a sum of as many leaves.
void SharderMemory::AddLeaf(Section& section) {
  Block carry = timeline_.Allocate(GradientBytes(section) / group(section).owners->size(),
                                   MemoryClass::kGradientBuffers);
  for (size_t level = 0;; ++level) {
    if (level == section.leaves.size()) section.leaves.emplace_back();
    if (!section.leaves[level]) {
      section.leaves[level] = std::move(carry);
      return;
    }
    section.leaves[level] = nullptr;
  }
}

void SharderMemory::FinishGradients() {
  for (Outstanding& outstanding : outstanding_) Finish(outstanding);
  outstanding_.clear();
  for (int unit = 0; unit < num_units(); ++unit) {
    for (Section& section : units_[unit].sections) section.leaves.clear();
    Reshard(unit);
  }
}

}  // namespace plait
