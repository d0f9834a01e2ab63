#include "parallel/parameter_sharder.h"

#include <map>
#include <unordered_set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/check.h"

namespace plait {
namespace {

constexpr int64_t kAlignmentBytes = 16;

// Parameters of one unit with one dtype, and where each begins in the section's flat buffers.
struct Section {
  std::vector<size_t> members;  // index into the unit's parameters
  std::vector<int64_t> offsets;
  int64_t elements = 0;
};

int64_t Padded(int64_t elements, DType dtype) {
  const int64_t unit = kAlignmentBytes / static_cast<int64_t>(SizeOf(dtype));
  return (elements + unit - 1) / unit * unit;
}

// compute = master, rounded to nearest even.
void RoundToBf16(const Tensor& master, Tensor& compute) {
  const float* from = master.data<float>();
  BFloat16* to = compute.data<BFloat16>();
  for (int64_t i = 0; i < master.num_elements(); ++i) to[i] = BFloat16(from[i]);
}

}  // namespace

absl::StatusOr<std::unique_ptr<ParameterSharder>> ParameterSharder::Create(
    Execution& execution, const DeviceMesh& mesh, std::vector<ParameterUnit> units) {
  if (mesh.world().size() != 1) {
    return absl::UnimplementedError(
        absl::StrCat("parameter sharder: expected one rank, got ", mesh.world().size()));
  }
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
    }
  }

  std::unique_ptr<ParameterSharder> sharder(new ParameterSharder());
  for (const ParameterUnit& unit : units) {
    std::map<DType, Section> sections;
    for (size_t i = 0; i < unit.parameters.size(); ++i) {
      const Parameter& parameter = *unit.parameters[i];
      Section& section = sections[parameter.dtype];
      section.members.push_back(i);
      section.offsets.push_back(section.elements);
      section.elements += Padded(parameter.shape.num_elements(), parameter.dtype);
    }
    std::vector<ShardedParameter> sharded(unit.parameters.size());
    for (auto& [dtype, section] : sections) {
      const DType master_dtype = StatisticsDType(dtype);
      const Shape flat{section.elements};
      const Tensor masters = execution.Zeros(master_dtype, flat);
      const Tensor gradients = execution.Zeros(master_dtype, flat);
      const Tensor values = dtype == master_dtype ? masters : execution.Zeros(dtype, flat);
      for (size_t k = 0; k < section.members.size(); ++k) {
        Parameter& parameter = *unit.parameters[section.members[k]];
        const int64_t offset = section.offsets[k];
        const Shape elements{parameter.shape.num_elements()};
        parameter.value = values.Flat(offset, parameter.shape);
        parameter.gradient = gradients.Flat(offset, parameter.shape);
        ShardedParameter& shard = sharded[section.members[k]];
        shard.name = parameter.name;
        shard.spec = ShardSpec::Whole(parameter.shape);
        shard.master = masters.Flat(offset, elements);
        shard.gradient = gradients.Flat(offset, elements);
        shard.compute = values.Flat(offset, elements);
      }
    }
    for (ShardedParameter& shard : sharded) sharder->sharded_.push_back(std::move(shard));
  }
  sharder->units_ = std::move(units);
  return sharder;
}

absl::Status ParameterSharder::Unshard(Execution&, int unit) {
  PLAIT_CHECK(unit >= 0 && unit < num_units());
  return absl::OkStatus();
}

absl::Status ParameterSharder::Prefetch(Execution&, int unit) {
  // One past either end of a stack is asked for by the loop over it: nothing to fetch.
  PLAIT_CHECK(unit >= -1 && unit <= num_units());
  return absl::OkStatus();
}

absl::Status ParameterSharder::ReduceGradients(Execution&, int unit) {
  PLAIT_CHECK(unit >= 0 && unit < num_units());
  return absl::OkStatus();
}

absl::Status ParameterSharder::Reshard(Execution&, int unit) {
  PLAIT_CHECK(unit >= 0 && unit < num_units());
  return absl::OkStatus();
}

absl::Status ParameterSharder::FinishGradients(Execution&) { return absl::OkStatus(); }

void ParameterSharder::ZeroGradients() {
  for (ShardedParameter& parameter : sharded_) parameter.gradient.FillZero();
}

void ParameterSharder::RefreshComputeValues() {
  for (ShardedParameter& parameter : sharded_) {
    if (parameter.compute.dtype() == DType::kBf16) RoundToBf16(parameter.master, parameter.compute);
  }
}

void ParameterSharder::AppendState(NamedState& state) {
  for (const ShardedParameter& parameter : sharded_) {
    state.tensors.push_back(
        {absl::StrCat("parameters/", parameter.name), parameter.master, parameter.spec});
  }
}

int64_t ParameterSharder::num_parameters() const {
  int64_t elements = 0;
  for (const ShardedParameter& parameter : sharded_) {
    elements += parameter.spec.logical_shape.num_elements();
  }
  return elements;
}

}  // namespace plait
