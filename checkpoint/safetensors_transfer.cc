#include "checkpoint/safetensors_transfer.h"

#include <map>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/durable_file.h"
#include "base/status_macros.h"

namespace plait {

std::vector<SourceTensor> SafetensorsReader::Sources(const SafetensorsFolder& folder) {
  std::vector<SourceTensor> sources;
  for (const SafetensorsFolder::Entry& entry : folder.tensors()) {
    sources.push_back({entry.tensor->name, entry.tensor->dtype, entry.tensor->shape});
  }
  return sources;
}

absl::StatusOr<std::shared_ptr<const void>> SafetensorsReader::Read(size_t source, int64_t begin,
                                                                    int64_t count) {
  const SafetensorsFolder::Entry& entry = folder_.tensors()[source];
  const int64_t bits = BitsOf(entry.tensor->dtype), bytes = count * bits / 8;
  std::shared_ptr<void> piece = allocator_->Allocate(static_cast<size_t>(bytes));
  PLAIT_RETURN_IF_ERROR(
      entry.file->Read(entry.tensor->begin + begin * bits / 8, bytes, piece.get()));
  return piece;
}

SafetensorsLayout SafetensorsLayout::For(const TensorPlan& plan, int64_t max_file_bytes) {
  SafetensorsLayout layout;
  std::vector<std::vector<SafetensorsTensor>> files(1);
  int64_t bytes_in_file = 0;
  for (const PlannedTensor& target : plan.targets) {
    const int64_t bytes = target.bytes();
    if (!files.back().empty() && bytes_in_file + bytes > max_file_bytes) {
      files.emplace_back();
      bytes_in_file = 0;
    }
    bytes_in_file += bytes;
    layout.total_bytes += bytes;
    layout.file_of_target.push_back(files.size() - 1);
    const auto sizes = target.shape.sizes();
    files.back().push_back(
        {target.name, SafetensorsDTypeFor(target.dtype), {sizes.begin(), sizes.end()}});
  }
  std::map<std::string, int64_t> begin_of_name;
  for (size_t i = 0; i < files.size(); ++i) {
    layout.files.push_back({SafetensorsShardName(i, files.size()),
                            MakeSafetensorsHeader(std::move(files[i]), {{"format", "pt"}})});
    for (const SafetensorsTensor& tensor : layout.files.back().header.tensors) {
      begin_of_name[tensor.name] = tensor.begin;
    }
  }
  for (const PlannedTensor& target : plan.targets) {
    layout.begin_of_target.push_back(begin_of_name.at(target.name));
  }
  return layout;
}

int64_t SafetensorsLayout::file_bytes() const {
  int64_t bytes = total_bytes;
  for (const File& file : files) {
    // A tensor's line in the index is shorter than its entry in a header.
    bytes += (files.size() == 1 ? 1 : 2) * file.header.data_offset;
  }
  return bytes;
}

absl::Status SafetensorsLayout::CreateFiles(const std::string& folder) const {
  SafetensorsIndex index{.file_of_tensor = {}, .total_bytes = total_bytes};
  for (const File& file : files) {
    PLAIT_RETURN_IF_ERROR(
        SafetensorsWriter::Create(absl::StrCat(folder, "/", file.name), file.header));
    for (const SafetensorsTensor& tensor : file.header.tensors) {
      index.file_of_tensor[tensor.name] = file.name;
    }
  }
  if (files.size() == 1) return absl::OkStatus();
  return WriteFileDurably(absl::StrCat(folder, "/", kSafetensorsIndexName),
                          SafetensorsIndexText(index));
}

absl::Status SafetensorsFolderWriter::Write(size_t target, int64_t begin, int64_t count,
                                            const void* data) {
  const size_t file = layout_.file_of_target[target];
  if (!open_ || open_->index != file) {
    PLAIT_RETURN_IF_ERROR(Finish());
    const SafetensorsLayout::File& description = layout_.files[file];
    const std::string path = absl::StrCat(folder_, "/", description.name);
    PLAIT_ASSIGN_OR_RETURN(SafetensorsWriter writer,
                           SafetensorsWriter::Open(path, description.header));
    PLAIT_ASSIGN_OR_RETURN(EarlyWriteback writeback, EarlyWriteback::Of(path));
    open_.emplace(OpenFile{file, std::move(writer), std::move(writeback)});
  }
  const int64_t width = static_cast<int64_t>(SizeOf(plan_.targets[target].dtype));
  PLAIT_RETURN_IF_ERROR(
      open_->writer.Write(layout_.begin_of_target[target] + begin * width, data, count * width));
  open_->writeback.Wrote(count * width);
  return absl::OkStatus();
}

absl::Status SafetensorsFolderWriter::Finish() {
  if (!open_) return absl::OkStatus();
  const absl::Status status = open_->writer.Finish();
  open_.reset();
  return status;
}

}  // namespace plait
