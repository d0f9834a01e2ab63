// Which elements of which source tensors make each target tensor, between the files of a model and
// its logical tensors: pure, from names, dtypes and shapes alone. Every source tensor is used
// exactly once, or is known to mean nothing, or the plan is refused with every problem at once.
//
// The experts of a layer are one logical tensor each for gate and up, [experts, 2 x hidden, model],
// rows gate then up, and for down, [experts, model, hidden] (fused), or three tensors an expert:
//   experts.gate_up_proj  =  experts.{n}.gate_proj.weight, experts.{n}.up_proj.weight  [hidden,
//   model] experts.down_proj     =  experts.{n}.down_proj.weight [model, hidden]
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "base/dtype.h"
#include "base/shape.h"
#include "checkpoint/safetensors_header.h"

namespace plait {

// What the model consists of, experts fused.
struct LogicalTensor {
  std::string name;
  Shape shape;
};

struct SourceTensor {
  std::string name;
  SafetensorsDType dtype = SafetensorsDType::kF32;
  std::vector<int64_t> shape;
};

enum class ExpertLayout { kFused, kPerExpert };

struct TensorPlanOptions {
  ExpertLayout target = ExpertLayout::kFused;
  std::optional<DType> dtype;  // of every target; absent: each has its sources'
};

// The next `elements` of the target are elements [source_begin, source_begin + elements) of the
// source.
struct TensorSegment {
  size_t source = 0;
  int64_t source_begin = 0;
  int64_t elements = 0;
  friend bool operator==(const TensorSegment&, const TensorSegment&) = default;
};

struct PlannedTensor {
  std::string name;
  DType dtype = DType::kF32;
  Shape shape;
  std::vector<TensorSegment> segments;  // all its elements, in order

  int64_t bytes() const { return shape.num_elements() * static_cast<int64_t>(SizeOf(dtype)); }
};

struct TensorPlan {
  // A tensor that is there twice: lm_head.weight of a model whose head is its embedding. Both must
  // have the same bytes.
  struct Copy {
    size_t source = 0;
    size_t original = 0;
    friend bool operator==(const Copy&, const Copy&) = default;
  };

  std::vector<PlannedTensor> targets;  // in the order of the logical tensors
  std::vector<Copy> copies;
  std::vector<size_t> ignored;  // sources that the model does not have and that say nothing
};

// wanted: every tensor of the model, of distinct names. sources: of either expert layout.
// FailedPrecondition, one line with every problem (the first 20 in full): a tensor that is missing,
// unknown, of another shape, there twice, of an element type other than F32, BF16 and F16, or made
// of parts of several where none is asked for.
absl::StatusOr<TensorPlan> PlanTensors(std::span<const LogicalTensor> wanted,
                                       std::span<const SourceTensor> sources,
                                       const TensorPlanOptions& options);

}  // namespace plait
