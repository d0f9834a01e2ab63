// That a layout learns what one rank learns: one step from equal weights on the ranks of a layout,
// whole tensors put together from all shards, and each compared with that of one rank:
//   error(tensor) = ||found - expected|| / ||expected||, its bound CheckedLayout::bound
// At bf16 on layouts that round differently from one rank, what is expected is the step at f64 from
// the same weights, and the bound what roundings of the layout may do (rounding_reference.h).
// Compared are the initial weights (equal bits), every gradient, the gradient norm, every loss, the
// tokens of each expert (equal counts) and the sizes of activations.
#pragma once

#include <limits>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "base/execution.h"
#include "base/tensor.h"
#include "parallel/communicator.h"
#include "trainer/checked_layouts.h"
#include "trainer/rounding_reference.h"
#include "trainer/training_step.h"

namespace plait {

// What a step computed, in whole logical tensors of f64 by name.
struct CheckedStep {
  std::map<std::string, Tensor> weights;    // before the step
  std::map<std::string, Tensor> gradients;  // after it
  StepResult result;
  std::vector<Batch> leaves;                  // what it was computed from
  std::optional<RoundingReference> rounding;  // of a step at bf16
  // Smallest probability of a chosen expert less that of the best one not chosen, over all real
  // tokens and expert layers. Below 1e-4 a rounding may choose another expert.
  double routing_gap = std::numeric_limits<double>::infinity();
};

// The step that all layouts with as many microbatches are compared with, computed on `execution`.
// FailedPrecondition where the routing gap is too small to compare anything.
absl::StatusOr<CheckedStep> StepOnOneRank(CheckedModel model, DType precision, int leaves,
                                          const ExecutionOptions& execution = {.num_threads = 1});

struct LayoutDifference {
  std::string tensor;  // "model.norm.weight", "initial model.norm.weight", "loss", "gradient norm"
  double error = 0;    // infinite where a number is not finite
  double bound = 0;

  bool ok() const { return error <= bound; }
};

// To see a check fail: scales the gradient of this tensor on the last rank that has part of it.
// Empty: no fault.
struct LayoutFault {
  // What no layout takes for a rounding: where bf16 rounds differently, twice the gradient.
  static double VisibleFactor(DType precision) { return precision == DType::kBf16 ? 2 : 1.01; }

  std::string tensor;
  double factor = 1.01;
};

// Collective over the layout's ranks; the same answer on each, in the order of names. NotFound for
// a fault in a tensor that is not there.
absl::StatusOr<std::vector<LayoutDifference>> CompareWithOneRank(
    const std::shared_ptr<Communicator>& world, CheckedModel model, DType precision,
    const CheckedLayout& layout, const CheckedStep& one_rank, const LayoutFault& fault = {},
    const ExecutionOptions& execution = {.num_threads = 1});

// The same with the ranks as threads of this process.
absl::StatusOr<std::vector<LayoutDifference>> CompareWithOneRank(
    CheckedModel model, DType precision, const CheckedLayout& layout, const CheckedStep& one_rank,
    const LayoutFault& fault = {}, const DeviceOfRank& device_of_rank = OneThread);

// The one that is largest in units of its bound. differences is not empty.
const LayoutDifference& WorstOf(const std::vector<LayoutDifference>& differences);

}  // namespace plait
