#include "checkpoint/shard_file.h"

#include <algorithm>
#include <cstring>
#include <map>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/check.h"
#include "base/digest.h"
#include "base/durable_file.h"
#include "base/float_conversion.h"
#include "base/status_macros.h"

namespace plait {

using Range = ShardSpec::Range;

namespace {

constexpr int64_t kFormatVersion = 1;
constexpr char kFormatAttribute[] = "plait_shard_format";
// Elements between two copies are read over where they are less than a chunk of the file, which is
// read and checked as a whole anyway.
constexpr int64_t kGapBytes = 1 << 20;
constexpr int64_t kBufferBytes = 16 << 20;

// HDF5 knows no attribute without values: an empty list is left out.
absl::Status SetList(Hdf5File& file, const std::string& dataset, const std::string& name,
                     const std::vector<int64_t>& values) {
  if (values.empty()) return absl::OkStatus();
  return file.SetAttribute(dataset, name, std::span<const int64_t>(values));
}

absl::StatusOr<std::vector<int64_t>> GetList(const Hdf5File& file, const std::string& dataset,
                                             const std::string& name) {
  absl::StatusOr<std::vector<int64_t>> values = file.IntegersAttribute(dataset, name);
  if (absl::IsNotFound(values.status())) return std::vector<int64_t>();
  return values;
}

// What the file gives back is what memory held.
absl::Status CompareWithMemory(const std::string& path,
                               const std::map<std::string, std::string>& digests) {
  PLAIT_ASSIGN_OR_RETURN(const ShardFile file, ShardFile::Open(path));
  if (file.tensors().size() != digests.size()) {
    return absl::DataLossError(absl::StrCat(path, ": wrote ", digests.size(), " tensors, read ",
                                            file.tensors().size(), " back"));
  }
  for (StoredTensor tensor : file.tensors()) {
    const auto digest = digests.find(tensor.name);
    if (digest == digests.end())
      return absl::DataLossError(absl::StrCat(path, ": ", tensor.name, " was never written"));
    tensor.digest = digest->second;
    PLAIT_RETURN_IF_ERROR(file.Verify(tensor));
  }
  return absl::OkStatus();
}

// The same copies, none longer than `length`.
std::vector<ShardCopy> InPieces(std::span<const ShardCopy> copies, int64_t length) {
  std::vector<ShardCopy> pieces;
  for (ShardCopy copy : copies) {
    for (; copy.length > length; copy.length -= length) {
      pieces.push_back({copy.source, copy.destination, length});
      copy.source += length;
      copy.destination += length;
    }
    pieces.push_back(copy);
  }
  return pieces;
}

absl::StatusOr<DType> DTypeFor(Hdf5Type type) {
  for (DType dtype :
       {DType::kBf16, DType::kF16, DType::kF32, DType::kF64, DType::kI32, DType::kI64}) {
    if (Hdf5TypeFor(dtype) == type) return dtype;
  }
  return absl::DataLossError(absl::StrCat("elements of ", Name(type), " are no tensor's"));
}

absl::StatusOr<StoredTensor> Describe(const Hdf5File& file, const Hdf5Dataset& dataset) {
  StoredTensor tensor;
  tensor.name = dataset.name;
  tensor.num_elements = dataset.num_elements;
  PLAIT_ASSIGN_OR_RETURN(tensor.dtype, DTypeFor(dataset.type));
  PLAIT_ASSIGN_OR_RETURN(const auto shape, GetList(file, dataset.name, "logical_shape"));
  PLAIT_ASSIGN_OR_RETURN(const auto dim0, GetList(file, dataset.name, "dim0_ranges"));
  PLAIT_ASSIGN_OR_RETURN(const auto others, GetList(file, dataset.name, "other_ranges"));
  PLAIT_ASSIGN_OR_RETURN(const auto elements, GetList(file, dataset.name, "elements"));
  PLAIT_ASSIGN_OR_RETURN(tensor.digest, file.StringAttribute(dataset.name, "digest"));
  const absl::Status mismatch = absl::DataLossError(
      absl::StrCat("its attributes do not describe its ", dataset.num_elements, " elements"));
  if (shape.size() > Shape::kMaxRank || elements.size() != 2 ||
      elements[1] - elements[0] != dataset.num_elements) {
    return mismatch;
  }
  tensor.spec.logical_shape = Shape(std::span<const int64_t>(shape));
  tensor.spec.dim0_ranges = Paired(dim0);
  tensor.spec.other_ranges = Paired(others);
  tensor.spec.elements = {elements[0], elements[1]};
  if (!IsConsistent(tensor.spec)) return mismatch;
  return tensor;
}

}  // namespace

std::vector<int64_t> Flattened(std::span<const Range> ranges) {
  std::vector<int64_t> values;
  for (const Range& range : ranges) values.insert(values.end(), {range.begin, range.end});
  return values;
}

std::vector<Range> Paired(std::span<const int64_t> values) {
  std::vector<Range> ranges;
  for (size_t i = 0; i + 1 < values.size(); i += 2) ranges.push_back({values[i], values[i + 1]});
  return ranges;
}

std::string ShardFileName(int64_t rank) { return absl::StrFormat("rank-%05d.h5", rank); }

bool IsWidening(DType from, DType to) {
  const bool from_half = from == DType::kBf16 || from == DType::kF16;
  return (from_half && to == DType::kF32) ||
         ((from_half || from == DType::kF32) && to == DType::kF64);
}

NamedTensor PartToSave(const NamedTensor& tensor) {
  const int64_t elements = tensor.shard.num_elements();
  const int64_t begin = elements * tensor.replica / tensor.replicas;
  const int64_t end = elements * (tensor.replica + 1) / tensor.replicas;
  NamedTensor part{tensor.name, tensor.shard.Flat(begin, {end - begin}), tensor.spec};
  part.spec.elements = {tensor.spec.elements.begin + begin, tensor.spec.elements.begin + end};
  return part;
}

absl::StatusOr<ShardFileWriter> ShardFileWriter::Create(const std::string& path,
                                                        Hdf5Layout layout) {
  PLAIT_ASSIGN_OR_RETURN(Hdf5File file, Hdf5File::Create(path));
  PLAIT_RETURN_IF_ERROR(file.SetAttribute("/", kFormatAttribute, kFormatVersion));
  return ShardFileWriter(std::move(file), layout);
}

absl::Status ShardFileWriter::BeginTensor(const std::string& name, DType dtype,
                                          const ShardSpec& spec) {
  const auto sizes = spec.logical_shape.sizes();
  PLAIT_RETURN_IF_ERROR(file_.CreateDataset(name, Hdf5TypeFor(dtype),
                                            spec.elements.end - spec.elements.begin, layout_));
  PLAIT_RETURN_IF_ERROR(
      SetList(file_, name, "logical_shape", std::vector<int64_t>(sizes.begin(), sizes.end())));
  PLAIT_RETURN_IF_ERROR(SetList(file_, name, "dim0_ranges", Flattened(spec.dim0_ranges)));
  PLAIT_RETURN_IF_ERROR(SetList(file_, name, "other_ranges", Flattened(spec.other_ranges)));
  return SetList(file_, name, "elements", Flattened({&spec.elements, 1}));
}

absl::Status ShardFileWriter::WriteRange(const std::string& name, DType dtype, int64_t begin,
                                         int64_t count, const void* data) {
  return file_.WriteRange(name, Hdf5TypeFor(dtype), begin, count, data);
}

absl::Status ShardFileWriter::EndTensor(const std::string& name, const std::string& digest) {
  return file_.SetAttribute(name, "digest", std::string_view(digest));
}

absl::Status WriteShardFile(const std::string& path, const NamedState& state) {
  PLAIT_ASSIGN_OR_RETURN(ShardFileWriter writer,
                         ShardFileWriter::Create(path, Hdf5Layout::kChunkedWithChecksum));
  std::map<std::string, std::string> digests;
  for (const NamedTensor& tensor : state.tensors) {
    const NamedTensor part = PartToSave(tensor);
    if (part.shard.num_elements() == 0) continue;
    const std::string digest = DigestOf(part.shard.raw(), part.shard.bytes());
    const DType dtype = part.shard.dtype();
    PLAIT_RETURN_IF_ERROR(writer.BeginTensor(part.name, dtype, part.spec));
    PLAIT_RETURN_IF_ERROR(
        writer.WriteRange(part.name, dtype, 0, part.shard.num_elements(), part.shard.raw()));
    PLAIT_RETURN_IF_ERROR(writer.EndTensor(part.name, digest));
    digests[part.name] = digest;
  }
  PLAIT_RETURN_IF_ERROR(writer.Close());
  PLAIT_RETURN_IF_ERROR(SyncFile(path));
  return CompareWithMemory(path, digests);
}

absl::StatusOr<ShardFile> ShardFile::Open(const std::string& path) {
  PLAIT_ASSIGN_OR_RETURN(Hdf5File file, Hdf5File::Open(path));
  PLAIT_ASSIGN_OR_RETURN(const int64_t format, file.IntegerAttribute("/", kFormatAttribute));
  if (format != kFormatVersion) {
    return absl::DataLossError(absl::StrCat(path, ": ", kFormatAttribute, " is ", format,
                                            ", this plait reads ", kFormatVersion));
  }
  PLAIT_ASSIGN_OR_RETURN(const std::vector<Hdf5Dataset> datasets, file.Datasets());
  std::vector<StoredTensor> tensors;
  for (const Hdf5Dataset& dataset : datasets) {
    absl::StatusOr<StoredTensor> tensor = Describe(file, dataset);
    if (!tensor.ok()) return Annotate(tensor.status(), absl::StrCat(path, ": ", dataset.name));
    tensors.push_back(*std::move(tensor));
  }
  ShardFile shard_file(path, std::move(tensors));
  shard_file.file_ = std::move(file);
  return shard_file;
}

absl::StatusOr<const Hdf5File*> ShardFile::Opened() const {
  if (!file_) {
    PLAIT_ASSIGN_OR_RETURN(file_, Hdf5File::Open(path_));
  }
  return &*file_;
}

absl::Status ShardFile::CheckDigest(const StoredTensor& tensor, const std::string& found) const {
  if (found == tensor.digest) return absl::OkStatus();
  return absl::DataLossError(absl::StrCat(path_, ": ", tensor.name,
                                          ": expected content with digest ", tensor.digest,
                                          ", found ", found));
}

absl::Status ShardFile::Verify(const StoredTensor& tensor) const {
  const auto width = static_cast<int64_t>(SizeOf(tensor.dtype));
  const int64_t piece = kBufferBytes / width;
  std::vector<char> buffer(
      static_cast<size_t>(std::min<int64_t>(piece, tensor.num_elements) * width));
  PLAIT_ASSIGN_OR_RETURN(const Hdf5File* const file, Opened());
  DigestStream digest;
  for (int64_t begin = 0; begin < tensor.num_elements; begin += piece) {
    const int64_t count = std::min<int64_t>(piece, tensor.num_elements - begin);
    PLAIT_RETURN_IF_ERROR(
        file->ReadRange(tensor.name, Hdf5TypeFor(tensor.dtype), begin, count, buffer.data()));
    digest.Add(buffer.data(), static_cast<size_t>(count * width));
  }
  return CheckDigest(tensor, digest.Hex());
}

absl::Status ShardFile::ReadRange(const StoredTensor& tensor, int64_t begin, int64_t count,
                                  void* data) const {
  PLAIT_ASSIGN_OR_RETURN(const Hdf5File* const file, Opened());
  PLAIT_RETURN_IF_ERROR(
      file->ReadRange(tensor.name, Hdf5TypeFor(tensor.dtype), begin, count, data));
  if (count < tensor.num_elements) return absl::OkStatus();
  return CheckDigest(tensor, DigestOf(data, static_cast<size_t>(count) * SizeOf(tensor.dtype)));
}

absl::Status ShardFile::ReadCopies(const StoredTensor& tensor, std::span<const ShardCopy> copies,
                                   VectorView to) const {
  const auto width = static_cast<int64_t>(SizeOf(tensor.dtype));
  const auto to_width = static_cast<int64_t>(SizeOf(to.dtype));
  const bool is_same = to.dtype == tensor.dtype;
  PLAIT_CHECK(is_same || IsWidening(tensor.dtype, to.dtype));
  const auto at = [&](int64_t element) { return to.as<char>() + element * to_width; };
  std::vector<ShardCopy> pieces;
  if (!is_same) {
    pieces = InPieces(copies, kBufferBytes / width);
    copies = pieces;
  }
  std::vector<char> buffer;
  for (size_t first = 0, next = 0; first < copies.size(); first = next) {
    const int64_t begin = copies[first].source;
    int64_t end = begin + copies[first].length;
    for (next = first + 1; next < copies.size(); ++next) {
      const int64_t next_end = copies[next].source + copies[next].length;
      if ((copies[next].source - end) * width > kGapBytes ||
          (next_end - begin) * width > kBufferBytes) {
        break;
      }
      end = next_end;
    }
    if (is_same && next == first + 1) {
      PLAIT_RETURN_IF_ERROR(ReadRange(tensor, begin, end - begin, at(copies[first].destination)));
      continue;
    }
    buffer.resize(static_cast<size_t>((end - begin) * width));
    PLAIT_RETURN_IF_ERROR(ReadRange(tensor, begin, end - begin, buffer.data()));
    for (const ShardCopy& copy : copies.subspan(first, next - first)) {
      const char* const from = buffer.data() + (copy.source - begin) * width;
      if (is_same) {
        std::memcpy(at(copy.destination), from, static_cast<size_t>(copy.length * width));
      } else {
        PLAIT_RETURN_IF_ERROR(ConvertFloats(tensor.name, copy.source,
                                            {from, tensor.dtype, copy.length},
                                            {at(copy.destination), to.dtype, copy.length}));
      }
    }
  }
  return absl::OkStatus();
}

}  // namespace plait
