#include "checkpoint/checkpoint_transfer.h"

#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/durable_file.h"
#include "base/status_macros.h"
#include "base/tensor.h"

namespace plait {
namespace {

constexpr char kPrefix[] = "parameters/";

}  // namespace

CheckpointTensorReader::CheckpointTensorReader(const CheckpointReader& checkpoint)
    : checkpoint_(checkpoint), allocator_(Allocator::Create()) {
  for (const auto& [name, parts] : checkpoint.tensors()) {
    if (!absl::StartsWith(name, kPrefix)) continue;
    const StoredTensor& stored = *parts.front().stored;
    const auto sizes = stored.spec.logical_shape.sizes();
    sources_.push_back({name.substr(sizeof(kPrefix) - 1),
                        SafetensorsDTypeFor(stored.dtype),
                        {sizes.begin(), sizes.end()}});
  }
}

absl::StatusOr<std::shared_ptr<const void>> CheckpointTensorReader::Read(size_t source,
                                                                         int64_t begin,
                                                                         int64_t count) {
  const SourceTensor& tensor = sources_[source];
  auto piece =
      std::make_shared<Tensor>(Tensor::Empty(*allocator_, *DTypeFor(tensor.dtype), {count}));
  NamedTensor wanted{absl::StrCat(kPrefix, tensor.name), *piece,
                     ShardSpec::Whole(Shape(tensor.shape))};
  wanted.spec.elements = {begin, begin + count};
  NamedState state;
  state.tensors.push_back(std::move(wanted));
  PLAIT_RETURN_IF_ERROR(checkpoint_.Load(UnaskedTensors::kIgnore, state));
  return std::shared_ptr<const void>(piece, piece->raw());
}

absl::StatusOr<CheckpointTensorWriter> CheckpointTensorWriter::Create(const std::string& path,
                                                                      int64_t bytes,
                                                                      const TensorPlan& plan) {
  PLAIT_ASSIGN_OR_RETURN(ShardFileWriter file,
                         ShardFileWriter::Create(path, Hdf5Layout::kContiguous));
  PLAIT_RETURN_IF_ERROR(ReserveFileSpace(path, bytes));
  PLAIT_ASSIGN_OR_RETURN(EarlyWriteback writeback, EarlyWriteback::Of(path));
  return CheckpointTensorWriter(std::move(file), std::move(writeback), plan);
}

absl::Status CheckpointTensorWriter::Write(size_t target, int64_t begin, int64_t count,
                                           const void* data) {
  const PlannedTensor& tensor = plan_.targets[target];
  const std::string name = absl::StrCat(kPrefix, tensor.name);
  if (begin == 0) {
    PLAIT_RETURN_IF_ERROR(file_.BeginTensor(name, tensor.dtype, ShardSpec::Whole(tensor.shape)));
    PLAIT_ASSIGN_OR_RETURN(place_, file_.PlaceOf(name));
  }
  const auto width = static_cast<int64_t>(SizeOf(tensor.dtype));
  PLAIT_RETURN_IF_ERROR(file_.WriteRange(name, tensor.dtype, begin, count, data));
  digest_.Add(place_ + begin * width, data, count * width);
  writeback_.Wrote(count * width);
  return absl::OkStatus();
}

absl::Status CheckpointTensorWriter::End(size_t target, const std::string& digest) {
  return file_.EndTensor(absl::StrCat(kPrefix, plan_.targets[target].name), digest);
}

}  // namespace plait
