#include "tools/conversion.h"

#include <chrono>
#include <set>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "model/language_model.h"
#include "tools/progress.h"

namespace plait {
namespace {

constexpr const char* kCarriedFiles[] = {
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "vocab.json",
    "merges.txt",
    "spiece.model",
};

}  // namespace

std::span<const char* const> CarriedFiles() { return kCarriedFiles; }

absl::StatusOr<std::vector<LogicalTensor>> LogicalTensorsOf(const recipe::v1::Model& model) {
  PLAIT_ASSIGN_OR_RETURN(const ModelShape shape, ModelShape::FromRecipe(model));
  const DeviceMesh mesh = DeviceMesh::SingleRank();
  const auto language_model = LanguageModel::Create(shape, DType::kF32, Recomputation::kNone, mesh);
  std::vector<LogicalTensor> tensors;
  for (const ParameterUnit& unit : language_model->Units()) {
    for (const Parameter* parameter : unit.parameters) {
      tensors.push_back({parameter->name, parameter->shape});
    }
  }
  return tensors;
}

std::string DTypeOfTargets(const TensorPlan& plan) {
  std::set<DType> dtypes;
  for (const PlannedTensor& target : plan.targets) dtypes.insert(target.dtype);
  return dtypes.size() == 1 ? Name(SafetensorsDTypeFor(*dtypes.begin())) : "mixed";
}

int64_t ConversionWork::target_bytes() const {
  int64_t bytes = 0;
  for (const PlannedTensor& target : plan.targets) bytes += target.bytes();
  return bytes;
}

absl::StatusOr<TransferDigests> TransferWithProgress(Communicator& world,
                                                     const ConversionOptions& options,
                                                     const ConversionWork& work,
                                                     TensorReader& reader, TensorWriter& writer,
                                                     double& seconds) {
  using Clock = std::chrono::steady_clock;
  const Clock::time_point began = Clock::now();
  const TransferDeal deal = DealTransfer(work.plan, work.sources, world.size());
  // Shares are about equal: rank 0's is shown for all.
  const int64_t total = deal.bytes_of_rank[static_cast<size_t>(world.rank())];
  int64_t done = 0;
  Progress bar;
  const auto progress = [&](int64_t bytes) {
    if (options.stop && options.stop()) return absl::CancelledError("stopped on request");
    done += bytes;
    if (world.rank() == 0) bar.Update("converting", {.bytes_done = done, .bytes_total = total});
    return absl::OkStatus();
  };
  auto digests = TransferTensors(world, work.plan, work.sources, reader, writer, progress);
  seconds = std::chrono::duration<double>(Clock::now() - began).count();
  return digests;
}

}  // namespace plait
