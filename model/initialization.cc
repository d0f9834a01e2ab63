#include "model/initialization.h"

#include <algorithm>
#include <cmath>

#include "base/execution.h"
#include "base/number_at.h"
#include "base/random.h"

namespace plait {
namespace {

double InitialValue(const Initialization& initialization, const RandomKey& key, int64_t element,
                    int64_t last_dim) {
  const auto index = static_cast<uint64_t>(element);
  switch (initialization.kind) {
    case Initialization::Kind::kConstant:
      return initialization.value;
    case Initialization::Kind::kNormal:
      return initialization.value * key.Normal(index);
    case Initialization::Kind::kUniform:
      return initialization.value * (2 * key.Uniform(index) - 1);
    case Initialization::Kind::kLogStateIndex:
      return std::log(static_cast<double>(element % last_dim + 1));
    case Initialization::Kind::kDtBias: {
      const double low = std::log(1e-3), high = std::log(1e-1);
      const double dt = std::max(std::exp(low + (high - low) * key.Uniform(index)), 1e-4);
      return dt + std::log(-std::expm1(-dt));
    }
  }
  return 0;
}

}  // namespace

absl::Status InitializeMaster(Execution& execution, ShardedParameter& parameter,
                              const Initialization& initialization, uint64_t seed) {
  const ShardSpec& spec = parameter.spec;
  const bool whole = spec.has_whole_box();
  const RandomKey key(seed, RandomPurpose::kInitialization, parameter.name);
  const Shape& shape = spec.logical_shape;
  // Integers and normals are the host's, whatever the device.
  Tensor master = parameter.master.on_device()
                      ? Tensor::OnHost(parameter.master.dtype(), parameter.master.shape())
                      : parameter.master;
  const int64_t last_dim = shape.rank() == 0 ? 1 : shape[shape.rank() - 1];
  // Elements are independent; a large model would be long in starting on one core.
#pragma omp parallel for schedule(static) num_threads(NumAvailableCores())
  for (int64_t i = spec.elements.begin; i < spec.elements.end; ++i) {
    const int64_t element = whole ? i : spec.LogicalElement(i);
    const double value = InitialValue(initialization, key, element, last_dim);
    SetNumber(master, i - spec.elements.begin, value);
  }
  return parameter.master.on_device() ? execution.Copy(master, parameter.master) : absl::OkStatus();
}

}  // namespace plait
