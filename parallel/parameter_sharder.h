// ParameterSharder (ZeRO-3 / FSDP): owns the memory of every parameter. A unit is a list of
// parameters that are gathered and reduced together (one mixer or feed-forward, the embedding, the
// head); it lies in flat sections (unit_layout.h) of which every rank of the section's group keeps
// one share: masters, gradients, compute values. Views of the sections are what layers see, so
// nothing is copied in or out of them.
//
// Values. Where the ranks of a group are on one host they keep their compute values in one shared
// window: gathering is reading, and Unshard, Prefetch and Reshard do nothing. Elsewhere Unshard
// gathers the unit into a buffer, Prefetch starts that for the next one, and Reshard gives the
// buffer back.
//
// Gradients. Layers add to a zeroed buffer between PrepareGradients and ReduceGradients; the owners
// add up the pieces of all ranks into their share (gradient_exchange.h), some units later, while
// the next ones compute. FinishGradients ends what is under way and reduces over the replicas. With
// one share layers add to it directly. Canonical reduction: canonical_sum.h.
//
// Sources: Rajbhandari et al., "ZeRO", 2020; Zhao et al., "PyTorch FSDP", 2023.
#pragma once

#include <array>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/execution.h"
#include "parallel/canonical_sum.h"
#include "parallel/device_mesh.h"
#include "parallel/gradient_exchange.h"
#include "parallel/named_state.h"
#include "parallel/parameter.h"
#include "parallel/shared_window.h"
#include "parallel/unit_layout.h"

namespace plait {

struct ParameterUnit {
  std::string name;
  std::vector<Parameter*> parameters;  // owned by the layers, which must outlive the sharder
  // Its gradients are under way from the head to the embedding (tied embeddings), while those of
  // other units come and go.
  bool held = false;
  // Of another stage of the pipeline: its parameters are only named here. Every rank lists the same
  // units, and sharded() the same parameters, of which those hold no elements.
  bool is_elsewhere = false;
};

struct SharderOptions {
  // Gradients add up along one tree over the microbatches of the step, whoever computed them.
  bool canonical = false;
  // Of gradients on their way to the owner: f32, or bf16 (each rank's piece rounded once).
  DType gradient_wire = DType::kF32;
  // Messages even between ranks of one host.
  bool messages_only = false;
};

// Units whose gradients are under way through a window at a time: more let ranks of different speed
// drift further apart before one waits.
int NumExchangeSlots(size_t largest_unit_bytes);

// Sections by unit, as a sharder of these units lays them out. Gives parameters of groups that have
// the same ranks one group.
std::vector<std::vector<SectionLayout>> SectionLayouts(const DeviceMesh& mesh,
                                                       const std::vector<ParameterUnit>& units,
                                                       const SharderOptions& options);

class ParameterSharder {
 public:
  // Collective. Allocates masters, gradients (zero) and values for all units. Parameter::dtype must
  // be set; bf16 and f32 values have f32 masters, f64 values f64 ones. AlreadyExists if a name
  // occurs twice. Execution and mesh outlive the sharder.
  static absl::StatusOr<std::unique_ptr<ParameterSharder>> Create(
      Execution& execution, const DeviceMesh& mesh, std::vector<ParameterUnit> units,
      const SharderOptions& options = {});

  // Whose memory everything is in.
  Execution& execution() { return execution_; }
  int num_units() const { return static_cast<int>(units_.size()); }
  absl::Status Unshard(Execution& execution, int unit);
  // One past either end of the units: nothing.
  absl::Status Prefetch(Execution& execution, int unit);
  absl::Status Reshard(Execution& execution, int unit);

  // At the start of a step.
  absl::Status ZeroGradients();
  absl::Status PrepareGradients(Execution& execution, int unit);
  absl::Status ReduceGradients(Execution& execution, int unit);
  // After the last microbatch: waits for every outstanding reduction. From here on masters and
  // compute values may be written: no rank reads them any more.
  absl::Status FinishGradients(Execution& execution);

  // In the order of the units and of the parameters in them.
  std::span<ShardedParameter> sharded() { return sharded_; }
  // Collective: compute values were written; from here on all ranks read the new ones.
  absl::Status PublishValues();
  // compute = master, rounded, and published: after masters were written by initialisation or a
  // checkpoint. Collective.
  absl::Status RefreshComputeValues();
  // "parameters/<name>" for every parameter: the masters.
  void AppendState(NamedState& state);

  int64_t num_parameters() const;  // logical elements, each counted once

  std::vector<std::vector<SectionLayout>> layouts() const;  // sections by unit
  // Whether ranks of the shard axis share memory (or there is one).
  bool has_windows() const;

  // Bytes that this rank holds; memory shared by the ranks of a host counts in equal parts.
  struct Memory {
    int64_t values = 0;            // compute dtype: its shares, or all of them where it has all
    int64_t masters = 0;           // where they are not the values
    int64_t gradients = 0;         // of its shares
    int64_t gradient_buffers = 0;  // of whole units, on their way
  };
  Memory memory() const;
  // This rank's equal part of the windows: memory that its Execution's allocator does not count.
  int64_t window_bytes() const { return window_bytes_; }

 private:
  struct Section {
    SectionLayout layout;
    Tensor values;    // all elements; absent while gathered by messages and not unsharded
    Tensor compute;   // this rank's share
    Tensor master;    // of it
    Tensor gradient;  // of it
    CanonicalSum leaves;
    Event gathered;
  };
  // A unit whose gradients are on their way: one lease per mesh group that it has sections of.
  struct Outstanding {
    int unit = 0;
    std::array<std::optional<GradientExchange::Lease>, kNumMeshGroups> leases;
    bool started = false;
  };

  ParameterSharder(Execution& execution, const DeviceMesh& mesh)
      : execution_(execution), mesh_(mesh) {}

  absl::Status LayOut(Execution& execution);
  absl::Status AllocateValues(Execution& execution);
  void AllocateShares(Execution& execution);
  absl::Status MakeExchanges();
  void MakeShardedParameters();
  void NameParameterElsewhere(const Parameter& parameter);
  void SetValues(int unit, Section& section);

  int64_t shares(MeshGroup group) const { return mesh_.group(group).shard->size(); }
  bool direct(MeshGroup group) const { return exchanges_[static_cast<int>(group)] == nullptr; }
  absl::Status StartGather(Execution& execution, int unit, Section& section);
  bool IsReady(const Outstanding& outstanding) const;
  absl::Status Finish(Execution& execution, Outstanding& outstanding);
  absl::Status FinishOldest(Execution& execution);
  absl::Status Fold(Execution& execution, Section& section, DType dtype,
                    std::span<const void* const> pieces, int64_t elements);
  absl::Status ReduceOverReplicas(Execution& execution);
  absl::Status TakeCanonicalSums(Execution& execution, Section& section);

  Execution& execution_;
  const DeviceMesh& mesh_;
  SharderOptions options_;
  bool shares_memory_ = false;  // ranks of one host do
  std::vector<ParameterUnit> units_;
  std::vector<std::vector<Section>> sections_;  // by unit
  std::vector<ShardedParameter> sharded_;
  std::array<Tensor, kNumMeshGroups> gradients_;                       // of all shares of a group
  std::array<std::unique_ptr<SharedWindow>, kNumMeshGroups> windows_;  // nullptr: none
  std::array<std::unique_ptr<GradientExchange>, kNumMeshGroups> exchanges_;  // nullptr: direct
  int64_t gradient_buffer_bytes_ = 0;
  int64_t window_bytes_ = 0;
  std::vector<Outstanding> outstanding_;  // in the order of PrepareGradients
};

}  // namespace plait
