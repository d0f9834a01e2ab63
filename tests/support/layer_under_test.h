// Storage for the parameters of a layer on its own: values from a seed, gradients of zero, all f64.
#pragma once

#include <vector>

#include "model/initialization.h"
#include "tests/support/random_tensor.h"

namespace plait {

inline void GiveRandomValues(const std::vector<LayerParameter*>& parameters, uint64_t seed,
                             double size = 0.7) {
  for (LayerParameter* layer_parameter : parameters) {
    Parameter& parameter = layer_parameter->parameter;
    parameter.value = UniformTensor(parameter.shape, seed++, DType::kF64, -size, size);
    parameter.gradient = Tensor::OnHost(DType::kF64, parameter.shape);
  }
}

}  // namespace plait
