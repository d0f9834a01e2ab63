// What a step computed, as named numbers that can be compared with another step's.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "base/tensor.h"
#include "trainer/training_step.h"

namespace plait {

// How far numbers are apart: a quantity of its own for each of the numbers that are compared.
enum class QuantityKind {
  kEqual,   // not at all
  kVector,  // one tensor: norm of the difference
  kSums,    // each number for itself; over microbatches they add up
  kMaxima,  // each for itself; over microbatches the largest
};

struct StepQuantity {
  std::string name;  // "model.norm.weight", "loss", "maxima of the experts of ..."
  QuantityKind kind = QuantityKind::kSums;
  std::vector<double> values;
};

// gradients: whole logical tensors of f64 by name. In the order of names, then the losses, then
// what layers measure; the same names for every step of a model.
std::vector<StepQuantity> QuantitiesOf(const std::map<std::string, Tensor>& gradients,
                                       const StepResult& result);

}  // namespace plait
