#include "checkpoint/shard_description.h"

#include <span>

#include "base/check.h"
#include "checkpoint/shard_description.pb.h"

namespace plait {
namespace {

using Numbers = google::protobuf::RepeatedField<int64_t>;

void Set(std::span<const int64_t> values, Numbers* numbers) {
  numbers->Assign(values.begin(), values.end());
}

std::span<const int64_t> Get(const Numbers& numbers) {
  return {numbers.data(), static_cast<size_t>(numbers.size())};
}

void Describe(const StoredTensor& tensor, checkpoint::v1::DescribedTensor& described) {
  described.set_name(tensor.name);
  described.set_dtype(static_cast<int32_t>(tensor.dtype));
  Set(tensor.spec.logical_shape.sizes(), described.mutable_logical_shape());
  Set(Flattened(tensor.spec.dim0_ranges), described.mutable_dim0_ranges());
  Set(Flattened(tensor.spec.other_ranges), described.mutable_other_ranges());
  described.set_elements_begin(tensor.spec.elements.begin);
  described.set_elements_end(tensor.spec.elements.end);
  described.set_digest(tensor.digest);
}

StoredTensor TensorOf(const checkpoint::v1::DescribedTensor& described) {
  StoredTensor tensor;
  tensor.name = described.name();
  tensor.dtype = static_cast<DType>(described.dtype());
  tensor.spec.logical_shape = Shape(Get(described.logical_shape()));
  tensor.spec.dim0_ranges = Paired(Get(described.dim0_ranges()));
  tensor.spec.other_ranges = Paired(Get(described.other_ranges()));
  tensor.spec.elements = {described.elements_begin(), described.elements_end()};
  tensor.num_elements = described.elements_end() - described.elements_begin();
  tensor.digest = described.digest();
  return tensor;
}

}  // namespace

std::string BytesOf(const DescribedFiles& files) {
  checkpoint::v1::DescribedFiles message;
  for (const auto& [rank, tensors] : files) {
    checkpoint::v1::DescribedFile& file = *message.add_files();
    file.set_rank(rank);
    for (const StoredTensor& tensor : tensors) Describe(tensor, *file.add_tensors());
  }
  std::string bytes;
  PLAIT_CHECK(message.SerializeToString(&bytes));
  return bytes;
}

absl::Status AddDescribedFiles(std::string_view bytes, DescribedFiles& files) {
  checkpoint::v1::DescribedFiles message;
  if (!message.ParseFromArray(bytes.data(), static_cast<int>(bytes.size()))) {
    return absl::InternalError("the description of a rank's file did not arrive whole");
  }
  for (const checkpoint::v1::DescribedFile& file : message.files()) {
    std::vector<StoredTensor>& tensors = files[file.rank()];
    for (const auto& described : file.tensors()) tensors.push_back(TensorOf(described));
  }
  return absl::OkStatus();
}

}  // namespace plait
