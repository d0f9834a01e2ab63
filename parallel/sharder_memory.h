// SharderMemory: the memory of a ParameterSharder and of its optimizer's moments, played on a
// timeline: the same calls in the same order allocate and free what the sharder would.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <vector>

#include "parallel/device_mesh.h"
#include "parallel/memory_timeline.h"
#include "parallel/parameter_sharder.h"
#include "parallel/unit_layout.h"

namespace plait {

class SharderMemory {
 public:
  // windows: whether the ranks of a group share memory (of one host). units: as for
  // ParameterSharder::Create; read here only. timeline and mesh outlive it.
  SharderMemory(MemoryTimeline& timeline, const DeviceMesh& mesh,
                const std::vector<ParameterUnit>& units, const SharderOptions& options,
                bool windows);

  // AdamW's two moments of every parameter's shard.
  void HoldMoments();

  // Of every parameter's shard on this rank.
  std::vector<int64_t> OwnElements() const;

  void Unshard(int unit);
  void Prefetch(int unit);
  void Reshard(int unit);
  void PrepareGradients(int unit);
  void ReduceGradients(int unit);
  void FinishGradients();

  int num_units() const { return static_cast<int>(units_.size()); }

 private:
  using Block = MemoryTimeline::Block;

  struct Section {
    SectionLayout layout;
    std::vector<int64_t> sizes;  // elements, of each member
    Block values;                // whole, while gathered by messages
    std::vector<Block> leaves;   // canonical: sums of 2^i leaves; nullptr: none
  };
  struct Unit {
    std::vector<Section> sections;
    bool held = false;
  };
  // A unit's gradients on their way.
  struct Outstanding {
    int unit = 0;
    bool started = false;
    std::vector<Block> buffers, sent, received;
  };

  const DeviceMesh::Group& group(const Section& section) const {
    return mesh_.group(section.layout.group);
  }
  int64_t shares(const Section& section) const { return group(section).shard->size(); }
  bool direct(MeshGroup group) const { return !exchanges_[static_cast<int>(group)]; }
  std::vector<int64_t> OwnElements(const Section& section) const;
  int64_t GradientBytes(const Section& section) const;
  void AllocateStates();
  void AllocateExchanges();
  void Finish(Outstanding& outstanding);
  void AddLeaf(Section& section);
  int NumLeases() const;

  MemoryTimeline& timeline_;
  const DeviceMesh& mesh_;
  SharderOptions options_;
  bool windows_;
  std::vector<Unit> units_;
  int num_elsewhere_ = 0;  // parameters of other stages
  std::array<bool, kNumMeshGroups> exchanges_{};
  std::vector<Block> states_;
  std::vector<Outstanding> outstanding_;
};

}  // namespace plait
