// A sharder with three parameters of different dtypes and decay, for the tests of optim/.
#pragma once

#include <cstring>
#include <memory>

#include "parallel/parameter_sharder.h"
#include "tests/support/random_tensor.h"
#include "tests/support/status_matchers.h"

namespace plait {

class SmallModel {
 public:
  // dtype: of the two matrices' values; A_log is f32, or f64 beside f64.
  explicit SmallModel(DType dtype = DType::kF32) {
    embedding_ = {"model.embed_tokens.weight", {37, 11}, dtype, {}, {}};
    a_log_ = {"model.layers.0.mamba.A_log", {9, 4}, StatisticsDType(dtype), {}, {}};
    projection_ = {"model.layers.0.mamba.out_proj.weight", {5, 9}, dtype, {}, {}};
    auto mesh = DeviceMesh::Create({1, 1, 0, 1, 1, 1}, MakeSingleRankCommunicator());
    mesh_ = std::make_unique<DeviceMesh>(*mesh);
    sharder_ = *ParameterSharder::Create(
        execution_, *mesh_, {{"embedding", {&embedding_}}, {"mamba", {&a_log_, &projection_}}});
    for (size_t i = 0; i < parameters().size(); ++i) Fill(parameters()[i].master, 100 + i);
    PLAIT_CHECK(sharder_->RefreshComputeValues().ok());
  }

  // Gradients of one step: the same for the same step.
  void FillGradients(uint64_t step) {
    for (size_t i = 0; i < parameters().size(); ++i) Fill(parameters()[i].gradient, 10 * step + i);
  }

  Execution& execution() { return execution_; }
  const DeviceMesh& mesh() const { return *mesh_; }
  ParameterSharder& sharder() { return *sharder_; }
  std::span<ShardedParameter> parameters() { return sharder_->sharded(); }

 private:
  static void Fill(Tensor& tensor, uint64_t seed) {
    const Tensor values = UniformTensor(tensor.shape(), seed, tensor.dtype());
    std::memcpy(tensor.raw(), values.raw(), values.bytes());
  }

  Execution execution_;
  std::unique_ptr<DeviceMesh> mesh_;
  Parameter embedding_, a_log_, projection_;
  std::unique_ptr<ParameterSharder> sharder_;
};

}  // namespace plait
