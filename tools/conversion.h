// What `plait convert` does: a Hugging Face model folder becomes a plait checkpoint of weights
// alone, and a plait checkpoint or run a Hugging Face folder. All functions are collective: the
// same result on every rank. The target is complete under its name or absent.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/dtype.h"
#include "checkpoint/tensor_plan.h"
#include "checkpoint/tensor_transfer.h"
#include "parallel/communicator.h"

namespace plait {

namespace recipe::v1 {
class Model;
}

struct ConversionOptions {
  std::string source;
  std::string target;
  std::optional<DType> dtype;               // of every target tensor; absent: as it is
  int64_t max_shard_bytes = 5'000'000'000;  // of a Hugging Face folder's files
  std::string report;                       // a file; empty: none
  bool replace = false;                     // an existing target
  // Asked now and then, on every rank: true ends the conversion with Cancelled. Absent: never.
  std::function<bool()> stop;
};

struct ConversionResult {
  std::string direction;  // "hugging_face_to_plait", "plait_to_hugging_face"
  std::string model_type;
  std::string dtype;  // "BF16", "F16", "F32" or "mixed"
  int64_t source_tensors = 0;
  int64_t target_tensors = 0;
  int64_t target_bytes = 0;
  double seconds = 0;  // of the transfer
};

// The source is a folder with config.json.
absl::StatusOr<ConversionResult> ImportHuggingFace(Communicator& world,
                                                   const ConversionOptions& options);
// The source is a checkpoint or a run's folder.
absl::StatusOr<ConversionResult> ExportHuggingFace(Communicator& world,
                                                   const ConversionOptions& options);

// Names of the small files that travel with the weights, unchanged.
std::span<const char* const> CarriedFiles();

// Every tensor of the model, experts fused. model: resolved.
absl::StatusOr<std::vector<LogicalTensor>> LogicalTensorsOf(const recipe::v1::Model& model);

// "BF16", "F16", "F32" or "mixed".
std::string DTypeOfTargets(const TensorPlan& plan);

// A plan that is being carried out.
struct ConversionWork {
  std::vector<SourceTensor> sources;
  std::vector<std::string> file_of_source;
  TensorPlan plan;
  std::vector<std::string> file_of_target;

  int64_t target_bytes() const;
};

// TransferTensors with a progress bar on rank 0; `seconds` gets the time it took.
absl::StatusOr<TransferDigests> TransferWithProgress(Communicator& world,
                                                     const ConversionOptions& options,
                                                     const ConversionWork& work,
                                                     TensorReader& reader, TensorWriter& writer,
                                                     double& seconds);

// JSON: the options, every source and target tensor with shape, dtype and digest, and where its
// elements went or came from.
std::string ConversionReport(const ConversionOptions& options, const ConversionResult& result,
                             const ConversionWork& work, const TransferDigests& digests);

}  // namespace plait
