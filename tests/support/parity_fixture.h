// A model that transformers made (tests/parity/fixtures): its config and tensors as the Hugging
// Face folder holds them, to be changed at will, and the runtime that they make.
#pragma once

#include <algorithm>
#include <cstring>
#include <fstream>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "base/check.h"
#include "base/foreign_hdf5_file.h"
#include "checkpoint/safetensors_file.h"
#include "recipes/hugging_face_config.h"
#include "recipes/recipe_defaults.h"
#include "recipes/schema/recipe.pb.h"
#include "tests/support/status_matchers.h"
#include "trainer/model_runtime.h"
#include "trainer/parity.h"

namespace plait {

inline std::string ReadWholeFile(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  PLAIT_CHECK(file.good());
  return std::string(std::istreambuf_iterator<char>(file), {});
}

// By the names of the file, all f32.
inline std::map<std::string, Tensor> ReadFixtureTensors(const std::string& path) {
  const auto file = SafetensorsFile::Open(path);
  PLAIT_CHECK(file.ok());
  std::map<std::string, Tensor> tensors;
  for (const SafetensorsTensor& entry : file->header().tensors) {
    PLAIT_CHECK(entry.dtype == SafetensorsDType::kF32);
    Tensor tensor = Tensor::OnHost(DType::kF32, Shape(entry.shape));
    std::memcpy(tensor.raw(), file->Data(entry.begin, entry.end - entry.begin), tensor.bytes());
    tensors[entry.name] = tensor;
  }
  return tensors;
}

struct ParityFixture {
  explicit ParityFixture(const std::string& name) : folder("tests/parity/fixtures/" + name) {
    const std::string config = ReadWholeFile(folder + "/model/config.json");
    auto model = ModelFromHuggingFaceConfig(config, name);
    PLAIT_CHECK(model.ok());
    recipe.set_schema_version(1);
    recipe.set_name(name);
    *recipe.mutable_model() = *model;
    auto ids = TokenIdsFromHuggingFace(config, "", name);
    PLAIT_CHECK(ids.ok());
    options = {.auxiliary_loss_coefficient = model->experts().balance_loss_coefficient(),
               .padding_id = ids->pad,
               .end_ids = ids->eos};
    tensors = ReadFixtureTensors(folder + "/model/model.safetensors");
  }

  // The tensors under plait's names: experts fused.
  Tensor Fused(const std::string& name, const Shape& shape) const {
    const size_t experts = name.find(".experts.");
    if (experts == std::string::npos) return tensors.at(name);
    Tensor fused = Tensor::OnHost(DType::kF32, shape);
    float* next = fused.data<float>();
    const std::string prefix = name.substr(0, experts + 9);
    const std::vector<std::string> parts = name.ends_with("gate_up_proj")
                                               ? std::vector<std::string>{"gate_proj", "up_proj"}
                                               : std::vector<std::string>{"down_proj"};
    for (int64_t e = 0; e < shape[0]; ++e) {
      for (const std::string& part : parts) {
        const Tensor& tensor = tensors.at(prefix + std::to_string(e) + "." + part + ".weight");
        next = std::copy_n(tensor.data<float>(), tensor.num_elements(), next);
      }
    }
    PLAIT_CHECK_EQ(next - fused.data<float>(), fused.num_elements());
    return fused;
  }

  std::string folder;
  recipe::v1::Recipe recipe;
  ParityOptions options;
  std::map<std::string, Tensor> tensors;
};

// The fixture's model with its weights.
struct ParityRuntime {
  ParityRuntime(const ParityFixture& fixture, const recipe::v1::Recipe& recipe) {
    auto created = ModelRuntime::Create(execution, Resolved(recipe));
    PLAIT_CHECK(created.ok());
    runtime = *std::move(created);
    for (ShardedParameter& parameter : runtime.sharder->sharded()) {
      const Tensor from = fixture.Fused(parameter.name, parameter.spec.logical_shape);
      PLAIT_CHECK_EQ(from.num_elements(), parameter.master.num_elements());
      std::copy_n(from.data<float>(), from.num_elements(), parameter.master.data<float>());
    }
    PLAIT_CHECK(runtime.sharder->RefreshComputeValues().ok());
  }

  Execution execution{{.num_threads = 1}};
  ModelRuntime runtime;
};

inline absl::StatusOr<ParityReport> CompareFixture(
    const ParityFixture& fixture, const std::string& reference_name = "reference.h5") {
  ParityRuntime loaded(fixture, ParityRecipe(fixture.recipe));
  auto reference = ForeignHdf5File::Open(fixture.folder + "/" + reference_name);
  if (!reference.ok()) return reference.status();
  return CompareWithReference(loaded.execution, loaded.runtime, *reference, fixture.options);
}

}  // namespace plait
