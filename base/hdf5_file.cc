#include "base/hdf5_file.h"

#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/durable_file.h"
#include "base/hdf5_library.h"
#include "base/status_macros.h"

namespace plait {
namespace {

using hdf5::AttributeHandle;
using hdf5::DatasetHandle;
using hdf5::EnterLibrary;
using hdf5::Exists;
using hdf5::Handle;
using hdf5::PropertyHandle;
using hdf5::Reason;
using hdf5::SpaceHandle;
using hdf5::TakeReason;
using hdf5::TypeHandle;

static_assert(sizeof(hid_t) == sizeof(int64_t));

constexpr int64_t kChunkBytes = 1 << 20;
// Smaller accesses to contiguous datasets go through a buffer; HDF5's own size is that of a write.
constexpr size_t kSieveBytes = 4 << 10;
constexpr size_t kMaxAttributeBytes = 16 << 20;
constexpr char kDtypeAttribute[] = "plait_dtype";

hid_t NativeType(Hdf5Type type) {
  switch (type) {
    case Hdf5Type::kF32:
      return H5T_NATIVE_FLOAT;
    case Hdf5Type::kF64:
      return H5T_NATIVE_DOUBLE;
    case Hdf5Type::kU8:
      return H5T_NATIVE_UINT8;
    case Hdf5Type::kBf16:
    case Hdf5Type::kF16:
    case Hdf5Type::kU16:
      return H5T_NATIVE_UINT16;
    case Hdf5Type::kU32:
      return H5T_NATIVE_UINT32;
    case Hdf5Type::kI32:
      return H5T_NATIVE_INT32;
    case Hdf5Type::kI64:
      return H5T_NATIVE_INT64;
  }
  return -1;
}

absl::Status CheckName(const std::string& path, const std::string& name) {
  if (name.empty() || name.front() == '/' || name.back() == '/' ||
      name.find("//") != std::string::npos) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, ": bad dataset name '", name, "': want parts joined by single '/'"));
  }
  return absl::OkStatus();
}

// Makes the groups that `name` lies in, without times, so that equal content gives equal bytes.
bool MakeGroups(hid_t file, const std::string& name) {
  PropertyHandle creation(H5Pcreate(H5P_GROUP_CREATE));
  if (H5Pset_obj_track_times(creation.id(), false) < 0) return false;
  for (size_t slash = name.find('/'); slash != std::string::npos;
       slash = name.find('/', slash + 1)) {
    const std::string group = name.substr(0, slash);
    if (Exists(file, group)) continue;
    Handle<H5Gclose> made(H5Gcreate2(file, group.c_str(), H5P_DEFAULT, creation.id(), H5P_DEFAULT));
    if (!made.ok()) return false;
  }
  return true;
}

absl::Status DataLoss(const std::string& path, const std::string& name, const char* what) {
  const Reason reason = TakeReason();
  return absl::DataLossError(absl::StrCat(path, ": ", name, ": ", what, ": ", reason.text));
}

// What a dataset of u16 holds by its attribute: bf16 or f16; u16 where it has none. False where the
// attribute says something else.
bool ReadHalfType(hid_t dataset, Hdf5Type& type) {
  type = Hdf5Type::kU16;
  if (H5Aexists(dataset, kDtypeAttribute) <= 0) return true;
  AttributeHandle attribute(H5Aopen(dataset, kDtypeAttribute, H5P_DEFAULT));
  if (!attribute.ok()) return false;
  TypeHandle stored(H5Aget_type(attribute.id()));
  char text[8] = "";
  if (!stored.ok() || H5Tget_class(stored.id()) != H5T_STRING ||
      H5Tis_variable_str(stored.id()) != 0 || H5Tget_size(stored.id()) >= sizeof(text) ||
      H5Aget_storage_size(attribute.id()) >= sizeof(text) ||
      H5Aread(attribute.id(), stored.id(), text) < 0) {
    return false;
  }
  for (Hdf5Type candidate : {Hdf5Type::kBf16, Hdf5Type::kF16}) {
    if (std::string_view(text) != Name(candidate)) continue;
    type = candidate;
    return true;
  }
  return false;
}

absl::StatusOr<Hdf5Dataset> DescribeOpen(hid_t dataset, const std::string& path,
                                         const std::string& name) {
  SpaceHandle space(H5Dget_space(dataset));
  TypeHandle type(H5Dget_type(dataset));
  if (!space.ok() || !type.ok()) return DataLoss(path, name, "cannot be described");
  if (H5Sget_simple_extent_ndims(space.id()) != 1) {
    return absl::DataLossError(absl::StrCat(path, ": ", name, ": expected one dimension, found ",
                                            H5Sget_simple_extent_ndims(space.id())));
  }
  hsize_t size = 0;
  H5Sget_simple_extent_dims(space.id(), &size, nullptr);
  Hdf5Dataset description{name, Hdf5Type::kF32, static_cast<int64_t>(size)};
  for (Hdf5Type candidate : {Hdf5Type::kF32, Hdf5Type::kF64, Hdf5Type::kU8, Hdf5Type::kU16,
                             Hdf5Type::kU32, Hdf5Type::kI32, Hdf5Type::kI64}) {
    if (H5Tequal(type.id(), NativeType(candidate)) <= 0) continue;
    description.type = candidate;
    if (candidate != Hdf5Type::kU16 || ReadHalfType(dataset, description.type)) return description;
    return absl::DataLossError(absl::StrCat(path, ": ", name, ": attribute ", kDtypeAttribute,
                                            " is neither bf16 nor f16"));
  }
  return absl::DataLossError(
      absl::StrCat(path, ": ", name, ": its element type is none that plait writes"));
}

absl::StatusOr<hid_t> OpenDataset(hid_t file, const std::string& path, const std::string& name) {
  PLAIT_RETURN_IF_ERROR(CheckName(path, name));
  if (!Exists(file, name)) return absl::NotFoundError(absl::StrCat(path, ": no dataset ", name));
  const hid_t id = H5Dopen2(file, name.c_str(), H5P_DEFAULT);
  if (id < 0) return DataLoss(path, name, "cannot be opened");
  return id;
}

// The dataset must hold `type` and have the range.
absl::Status CheckRange(const std::string& path, const Hdf5Dataset& dataset, Hdf5Type type,
                        int64_t begin, int64_t count) {
  if (dataset.type != type) {
    return absl::InvalidArgumentError(absl::StrCat(path, ": ", dataset.name,
                                                   ": expected elements of ", Name(type),
                                                   ", found ", Name(dataset.type)));
  }
  if (begin < 0 || count < 0 || begin > dataset.num_elements - count) {
    return absl::InvalidArgumentError(absl::StrCat(path, ": ", dataset.name, ": elements [", begin,
                                                   ", ", begin + count, ") are outside its ",
                                                   dataset.num_elements));
  }
  return absl::OkStatus();
}

// The file space of a range and the memory space beside it, for H5Dread and H5Dwrite.
bool SelectRange(const SpaceHandle& file_space, int64_t begin, int64_t count) {
  const hsize_t start = static_cast<hsize_t>(begin), size = static_cast<hsize_t>(count);
  return file_space.ok() &&
         H5Sselect_hyperslab(file_space.id(), H5S_SELECT_SET, &start, nullptr, &size, nullptr) >= 0;
}

// Of `count` elements of `width` bytes from `begin`, how many to write at once. Chunks go to the
// file one by one by HDF5's doing, and only a contiguous dataset has a place there.
int64_t NextWriteElements(hid_t dataset, int64_t begin, int64_t count, int64_t width) {
  const haddr_t place = H5Dget_offset(dataset);
  if (place == HADDR_UNDEF) return count;
  const int64_t bytes = NextWriteBytes(static_cast<int64_t>(place) + begin * width, count * width);
  return std::max<int64_t>(1, bytes / width);
}

hid_t FileAccess() {
  const hid_t access = H5Pcreate(H5P_FILE_ACCESS);
  H5Pset_libver_bounds(access, H5F_LIBVER_LATEST, H5F_LIBVER_LATEST);
  H5Pset_sieve_buf_size(access, kSieveBytes);
  H5Pset_fclose_degree(access,
                       H5F_CLOSE_SEMI);  // closing fails, rather than lingers, if a handle is open
  return access;
}

}  // namespace

int64_t SizeOf(Hdf5Type type) {
  switch (type) {
    case Hdf5Type::kU8:
      return 1;
    case Hdf5Type::kBf16:
    case Hdf5Type::kF16:
    case Hdf5Type::kU16:
      return 2;
    case Hdf5Type::kF32:
    case Hdf5Type::kU32:
    case Hdf5Type::kI32:
      return 4;
    case Hdf5Type::kF64:
    case Hdf5Type::kI64:
      return 8;
  }
  return 0;
}

const char* Name(Hdf5Type type) {
  switch (type) {
    case Hdf5Type::kBf16:
      return "bf16";
    case Hdf5Type::kF16:
      return "f16";
    case Hdf5Type::kF32:
      return "f32";
    case Hdf5Type::kF64:
      return "f64";
    case Hdf5Type::kU8:
      return "u8";
    case Hdf5Type::kU16:
      return "u16";
    case Hdf5Type::kU32:
      return "u32";
    case Hdf5Type::kI32:
      return "i32";
    case Hdf5Type::kI64:
      return "i64";
  }
  return "?";
}

Hdf5Type Hdf5TypeFor(DType dtype) {
  switch (dtype) {
    case DType::kBf16:
      return Hdf5Type::kBf16;
    case DType::kF16:
      return Hdf5Type::kF16;
    case DType::kF32:
      return Hdf5Type::kF32;
    case DType::kF64:
      return Hdf5Type::kF64;
    case DType::kI32:
      return Hdf5Type::kI32;
    case DType::kI64:
      return Hdf5Type::kI64;
  }
  return Hdf5Type::kF32;
}

absl::StatusOr<Hdf5File> Hdf5File::Create(const std::string& path) {
  EnterLibrary();
  PropertyHandle access(FileAccess());
  Hdf5File file;
  file.path_ = path;
  PropertyHandle creation(H5Pcreate(H5P_FILE_CREATE));
  H5Pset_obj_track_times(creation.id(), false);
  file.file_ = H5Fcreate(path.c_str(), H5F_ACC_EXCL, creation.id(), access.id());
  if (file.file_ < 0) {
    const Reason reason = TakeReason();
    // A full disk leaves an empty file behind: that there is a file now says nothing.
    if (reason.error_number == EEXIST)
      return absl::AlreadyExistsError(absl::StrCat(path, ": cannot be created: ", reason.text));
    return reason.error_number != 0
               ? SystemError(path, "cannot be created", reason.error_number)
               : absl::UnavailableError(absl::StrCat(path, ": cannot be created: ", reason.text));
  }
  file.mode_ = Mode::kWriting;
  return file;
}

absl::StatusOr<Hdf5File> Hdf5File::Open(const std::string& path) {
  EnterLibrary();
  if (struct stat status; ::stat(path.c_str(), &status) != 0) {
    return absl::NotFoundError(absl::StrCat(path, ": no such file"));
  }
  PropertyHandle access(FileAccess());
  Hdf5File file;
  file.path_ = path;
  file.file_ = H5Fopen(path.c_str(), H5F_ACC_RDONLY, access.id());
  if (file.file_ < 0) {
    const Reason reason = TakeReason();
    if (reason.error_number == EMFILE || reason.error_number == ENFILE) {
      return SystemError(path, "cannot be opened", reason.error_number);
    }
    return absl::DataLossError(absl::StrCat(
        path, ": cannot be opened as HDF5 (damaged, cut short or never closed): ", reason.text));
  }
  file.mode_ = Mode::kReading;
  return file;
}

Hdf5File::Hdf5File(Hdf5File&& other) noexcept { *this = std::move(other); }

Hdf5File& Hdf5File::operator=(Hdf5File&& other) noexcept {
  if (this == &other) return *this;
  CloseQuietly();
  path_ = std::move(other.path_);
  file_ = std::exchange(other.file_, -1);
  mode_ = std::exchange(other.mode_, Mode::kClosed);
  failure_ = std::exchange(other.failure_, absl::OkStatus());
  return *this;
}

Hdf5File::~Hdf5File() { CloseQuietly(); }

void Hdf5File::CloseQuietly() {
  if (mode_ != Mode::kClosed) Close().IgnoreError();
}

absl::Status Hdf5File::Close() {
  EnterLibrary();
  const Mode mode = std::exchange(mode_, Mode::kClosed);
  PLAIT_RETURN_IF_ERROR(failure_);
  if (mode == Mode::kClosed)
    return absl::FailedPreconditionError(absl::StrCat(path_, ": not open"));
  if (mode == Mode::kWriting && H5Fflush(file_, H5F_SCOPE_LOCAL) < 0) return WriteFailed("flush");
  if (H5Fclose(std::exchange(file_, -1)) < 0) return WriteFailed("close");
  return absl::OkStatus();
}

absl::Status Hdf5File::CheckMode(Mode mode) const {
  EnterLibrary();
  PLAIT_RETURN_IF_ERROR(failure_);
  if (mode_ == mode) return absl::OkStatus();
  return absl::FailedPreconditionError(
      absl::StrCat(path_, ": not open for ", mode == Mode::kReading ? "reading" : "writing"));
}

absl::Status Hdf5File::WriteFailed(const std::string& what) {
  const Reason reason = TakeReason();
  const std::string message = absl::StrCat(path_, ": ", what, ": write failed: ", reason.text);
  const bool full = reason.error_number == ENOSPC || reason.error_number == EDQUOT ||
                    reason.error_number == EFBIG;
  failure_ = full ? absl::ResourceExhaustedError(message) : absl::UnavailableError(message);
  return failure_;
}

absl::Status Hdf5File::CreateDataset(const std::string& name, Hdf5Type type, int64_t num_elements,
                                     Hdf5Layout layout) {
  PLAIT_RETURN_IF_ERROR(CheckMode(Mode::kWriting));
  PLAIT_RETURN_IF_ERROR(CheckName(path_, name));
  if (num_elements < 0) {
    return absl::InvalidArgumentError(
        absl::StrCat(path_, ": ", name, ": negative size ", num_elements));
  }
  if (Exists(file_, name))
    return absl::AlreadyExistsError(absl::StrCat(path_, ": ", name, " is written already"));
  const hsize_t size = static_cast<hsize_t>(num_elements);
  SpaceHandle space(H5Screate_simple(1, &size, nullptr));
  PropertyHandle creation(H5Pcreate(H5P_DATASET_CREATE));
  bool prepared = MakeGroups(file_, name) && space.ok() && creation.ok() &&
                  H5Pset_obj_track_times(creation.id(), false) >= 0 &&
                  H5Pset_fill_time(creation.id(), H5D_FILL_TIME_NEVER) >= 0;
  if (layout == Hdf5Layout::kChunkedWithChecksum && num_elements > 0) {
    const hsize_t chunk = static_cast<hsize_t>(std::min(num_elements, kChunkBytes / SizeOf(type)));
    prepared = prepared && H5Pset_chunk(creation.id(), 1, &chunk) >= 0 &&
               H5Pset_fletcher32(creation.id()) >= 0;
  } else {
    prepared = prepared && H5Pset_layout(creation.id(), H5D_CONTIGUOUS) >= 0 &&
               H5Pset_alloc_time(creation.id(), H5D_ALLOC_TIME_EARLY) >= 0;
  }
  if (!prepared) return WriteFailed(name);
  DatasetHandle dataset(H5Dcreate2(file_, name.c_str(), NativeType(type), space.id(), H5P_DEFAULT,
                                   creation.id(), H5P_DEFAULT));
  if (!dataset.ok() || !dataset.Close()) return WriteFailed(name);
  if (type == Hdf5Type::kBf16 || type == Hdf5Type::kF16)
    return SetAttribute(name, kDtypeAttribute, Name(type));
  return absl::OkStatus();
}

absl::Status Hdf5File::WriteRange(const std::string& name, Hdf5Type type, int64_t begin,
                                  int64_t count, const void* data) {
  PLAIT_RETURN_IF_ERROR(CheckMode(Mode::kWriting));
  PLAIT_ASSIGN_OR_RETURN(const hid_t id, OpenDataset(file_, path_, name));
  DatasetHandle dataset(id);
  PLAIT_ASSIGN_OR_RETURN(const Hdf5Dataset description, DescribeOpen(id, path_, name));
  PLAIT_RETURN_IF_ERROR(CheckRange(path_, description, type, begin, count));
  for (int64_t done = 0, elements = 0; done < count; done += elements) {
    elements = NextWriteElements(id, begin + done, count - done, SizeOf(type));
    const hsize_t size = static_cast<hsize_t>(elements);
    SpaceHandle memory(H5Screate_simple(1, &size, nullptr)), space(H5Dget_space(id));
    if (!memory.ok() || !SelectRange(space, begin + done, elements) ||
        H5Dwrite(id, NativeType(type), memory.id(), space.id(), H5P_DEFAULT,
                 static_cast<const char*>(data) + done * SizeOf(type)) < 0) {
      absl::Status failure = WriteFailed(name);
      dataset.Abandon();
      return failure;
    }
  }
  if (!dataset.Close()) return WriteFailed(name);
  return absl::OkStatus();
}

absl::Status Hdf5File::WriteDataset(const std::string& name, Hdf5Type type, int64_t num_elements,
                                    const void* data, Hdf5Layout layout) {
  PLAIT_RETURN_IF_ERROR(CreateDataset(name, type, num_elements, layout));
  return WriteRange(name, type, 0, num_elements, data);
}

// count == 0 makes a scalar.
absl::Status Hdf5File::SetAttributeOfType(const std::string& object, const std::string& name,
                                          int64_t type_id, int64_t count, const void* data) {
  PLAIT_RETURN_IF_ERROR(CheckMode(Mode::kWriting));
  if (!Exists(file_, object))
    return absl::NotFoundError(absl::StrCat(path_, ": no object ", object));
  if (H5Aexists_by_name(file_, object.c_str(), name.c_str(), H5P_DEFAULT) > 0) {
    return absl::AlreadyExistsError(
        absl::StrCat(path_, ": ", object, ": attribute ", name, " is set already"));
  }
  const hsize_t size = static_cast<hsize_t>(count);
  SpaceHandle space(count == 0 ? H5Screate(H5S_SCALAR) : H5Screate_simple(1, &size, nullptr));
  AttributeHandle attribute(H5Acreate_by_name(file_, object.c_str(), name.c_str(), type_id,
                                              space.id(), H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT));
  if (!attribute.ok() || H5Awrite(attribute.id(), type_id, data) < 0) {
    absl::Status failure = WriteFailed(absl::StrCat(object, ": attribute ", name));
    attribute.Abandon();
    return failure;
  }
  return absl::OkStatus();
}

absl::Status Hdf5File::SetAttribute(const std::string& object, const std::string& name,
                                    int64_t value) {
  EnterLibrary();
  return SetAttributeOfType(object, name, H5T_NATIVE_INT64, 0, &value);
}

absl::Status Hdf5File::SetAttribute(const std::string& object, const std::string& name,
                                    double value) {
  EnterLibrary();
  return SetAttributeOfType(object, name, H5T_NATIVE_DOUBLE, 0, &value);
}

absl::Status Hdf5File::SetAttribute(const std::string& object, const std::string& name,
                                    std::span<const int64_t> values) {
  EnterLibrary();
  if (values.empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat(path_, ": ", object, ": attribute ", name, " has no values"));
  }
  return SetAttributeOfType(object, name, H5T_NATIVE_INT64, static_cast<int64_t>(values.size()),
                            values.data());
}

absl::Status Hdf5File::SetAttribute(const std::string& object, const std::string& name,
                                    std::string_view value) {
  EnterLibrary();
  // The library knows no empty string: one byte of padding stands for it.
  const std::string bytes = value.empty() ? std::string(1, '\0') : std::string(value);
  TypeHandle type(H5Tcopy(H5T_C_S1));
  H5Tset_size(type.id(), bytes.size());
  H5Tset_strpad(type.id(), H5T_STR_NULLPAD);
  H5Tset_cset(type.id(), H5T_CSET_UTF8);
  return SetAttributeOfType(object, name, type.id(), 0, bytes.data());
}

absl::StatusOr<Hdf5Dataset> Hdf5File::Describe(const std::string& name) const {
  PLAIT_RETURN_IF_ERROR(CheckMode(Mode::kReading));
  PLAIT_ASSIGN_OR_RETURN(const hid_t id, OpenDataset(file_, path_, name));
  DatasetHandle dataset(id);
  return DescribeOpen(id, path_, name);
}

absl::StatusOr<std::vector<Hdf5Dataset>> Hdf5File::Datasets() const {
  PLAIT_RETURN_IF_ERROR(CheckMode(Mode::kReading));
  std::vector<std::string> names;
  const herr_t visited = H5Ovisit2(
      file_, H5_INDEX_NAME, H5_ITER_INC,
      [](hid_t, const char* name, const H5O_info_t* info, void* out) -> herr_t {
        if (info->type == H5O_TYPE_DATASET)
          static_cast<std::vector<std::string>*>(out)->push_back(name);
        return 0;
      },
      &names, H5O_INFO_BASIC);
  if (visited < 0) return DataLoss(path_, "/", "cannot be listed");
  std::sort(names.begin(), names.end());
  std::vector<Hdf5Dataset> datasets;
  for (const std::string& name : names) {
    PLAIT_ASSIGN_OR_RETURN(Hdf5Dataset dataset, Describe(name));
    datasets.push_back(std::move(dataset));
  }
  return datasets;
}

absl::Status Hdf5File::ReadRange(const std::string& name, Hdf5Type type, int64_t begin,
                                 int64_t count, void* data) const {
  PLAIT_RETURN_IF_ERROR(CheckMode(Mode::kReading));
  PLAIT_ASSIGN_OR_RETURN(const hid_t id, OpenDataset(file_, path_, name));
  DatasetHandle dataset(id);
  PLAIT_ASSIGN_OR_RETURN(const Hdf5Dataset description, DescribeOpen(id, path_, name));
  PLAIT_RETURN_IF_ERROR(CheckRange(path_, description, type, begin, count));
  if (count == 0) return absl::OkStatus();
  const hsize_t size = static_cast<hsize_t>(count);
  SpaceHandle memory(H5Screate_simple(1, &size, nullptr)), space(H5Dget_space(id));
  if (!memory.ok() || !SelectRange(space, begin, count) ||
      H5Dread(id, NativeType(type), memory.id(), space.id(), H5P_DEFAULT, data) < 0) {
    return DataLoss(path_, name, "cannot be read");
  }
  return absl::OkStatus();
}

absl::StatusOr<int64_t> Hdf5File::ContiguousOffset(const std::string& name) const {
  PLAIT_RETURN_IF_ERROR(CheckMode(mode_ == Mode::kWriting ? Mode::kWriting : Mode::kReading));
  PLAIT_ASSIGN_OR_RETURN(const hid_t id, OpenDataset(file_, path_, name));
  DatasetHandle dataset(id);
  PLAIT_ASSIGN_OR_RETURN(const Hdf5Dataset description, DescribeOpen(id, path_, name));
  if (description.num_elements == 0) return 0;
  PropertyHandle creation(H5Dget_create_plist(id));
  if (H5Pget_layout(creation.id()) != H5D_CONTIGUOUS || H5Pget_external_count(creation.id()) != 0) {
    return absl::FailedPreconditionError(
        absl::StrCat(path_, ": ", name, ": not contiguous in this file"));
  }
  const haddr_t offset = H5Dget_offset(id);
  if (offset == HADDR_UNDEF) return DataLoss(path_, name, "has no place in the file");
  return static_cast<int64_t>(offset);
}

namespace {

// Opens the attribute, checks its class and size, and reads it as `type_id`; type_id < 0 reads it
// as stored.
absl::StatusOr<std::string> ReadAttribute(hid_t file, const std::string& path,
                                          const std::string& object, const std::string& name,
                                          H5T_class_t type_class, hid_t type_id) {
  const std::string what = absl::StrCat("attribute ", name);
  if (!Exists(file, object)) return absl::NotFoundError(absl::StrCat(path, ": no object ", object));
  if (H5Aexists_by_name(file, object.c_str(), name.c_str(), H5P_DEFAULT) <= 0) {
    return absl::NotFoundError(absl::StrCat(path, ": ", object, ": no ", what));
  }
  AttributeHandle attribute(
      H5Aopen_by_name(file, object.c_str(), name.c_str(), H5P_DEFAULT, H5P_DEFAULT));
  if (!attribute.ok()) return DataLoss(path, object, what.c_str());
  TypeHandle stored(H5Aget_type(attribute.id()));
  SpaceHandle space(H5Aget_space(attribute.id()));
  if (!stored.ok() || !space.ok()) return DataLoss(path, object, what.c_str());
  if (H5Tget_class(stored.id()) != type_class || H5Tis_variable_str(stored.id()) > 0) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, ": ", object, ": ", what, " is of another type"));
  }
  const hid_t memory_type = type_id >= 0 ? type_id : stored.id();
  const hssize_t count = H5Sget_simple_extent_npoints(space.id());
  const size_t element_bytes = H5Tget_size(memory_type);
  if (count < 0 || element_bytes == 0 ||
      static_cast<size_t>(count) > kMaxAttributeBytes / element_bytes) {
    return absl::DataLossError(absl::StrCat(path, ": ", object, ": ", what, " is too large"));
  }
  std::string bytes(static_cast<size_t>(count) * element_bytes, '\0');
  if (H5Aread(attribute.id(), memory_type, bytes.data()) < 0)
    return DataLoss(path, object, what.c_str());
  return bytes;
}

template <class T>
absl::StatusOr<std::vector<T>> NumbersOf(absl::StatusOr<std::string> bytes) {
  if (!bytes.ok()) return std::move(bytes).status();
  std::vector<T> values(bytes->size() / sizeof(T));
  std::copy(bytes->begin(), bytes->end(), reinterpret_cast<char*>(values.data()));
  return values;
}

}  // namespace

absl::StatusOr<std::vector<int64_t>> Hdf5File::IntegersAttribute(const std::string& object,
                                                                 const std::string& name) const {
  PLAIT_RETURN_IF_ERROR(CheckMode(Mode::kReading));
  return NumbersOf<int64_t>(
      ReadAttribute(file_, path_, object, name, H5T_INTEGER, H5T_NATIVE_INT64));
}

absl::StatusOr<int64_t> Hdf5File::IntegerAttribute(const std::string& object,
                                                   const std::string& name) const {
  PLAIT_ASSIGN_OR_RETURN(const std::vector<int64_t> values, IntegersAttribute(object, name));
  if (values.size() == 1) return values[0];
  return absl::InvalidArgumentError(absl::StrCat(path_, ": ", object, ": attribute ", name,
                                                 ": expected one value, found ", values.size()));
}

absl::StatusOr<double> Hdf5File::RealAttribute(const std::string& object,
                                               const std::string& name) const {
  PLAIT_RETURN_IF_ERROR(CheckMode(Mode::kReading));
  PLAIT_ASSIGN_OR_RETURN(
      const std::vector<double> values,
      NumbersOf<double>(ReadAttribute(file_, path_, object, name, H5T_FLOAT, H5T_NATIVE_DOUBLE)));
  if (values.size() == 1) return values[0];
  return absl::InvalidArgumentError(absl::StrCat(path_, ": ", object, ": attribute ", name,
                                                 ": expected one value, found ", values.size()));
}

absl::StatusOr<std::string> Hdf5File::StringAttribute(const std::string& object,
                                                      const std::string& name) const {
  PLAIT_RETURN_IF_ERROR(CheckMode(Mode::kReading));
  PLAIT_ASSIGN_OR_RETURN(std::string bytes,
                         ReadAttribute(file_, path_, object, name, H5T_STRING, -1));
  bytes.resize(bytes.find_last_not_of('\0') + 1);
  return bytes;
}

std::string Hdf5LibraryVersion() {
  unsigned major = 0, minor = 0, release = 0;
  H5get_libversion(&major, &minor, &release);
  return absl::StrCat(major, ".", minor, ".", release);
}

}  // namespace plait
