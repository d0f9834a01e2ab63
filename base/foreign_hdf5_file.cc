#include "base/foreign_hdf5_file.h"

#include <sys/stat.h>

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/hdf5_library.h"
#include "base/status_macros.h"

namespace plait {
namespace {

using hdf5::AttributeHandle;
using hdf5::DatasetHandle;
using hdf5::EnterLibrary;
using hdf5::Exists;
using hdf5::Handle;
using hdf5::SpaceHandle;
using hdf5::TakeReason;
using hdf5::TypeHandle;

constexpr int64_t kMostBytes = int64_t{16} << 30;
constexpr size_t kMostTextBytes = 1 << 20;

absl::Status Damaged(const std::string& path, const std::string& name, const char* what) {
  return absl::DataLossError(absl::StrCat(path, ": ", name, ": ", what, ": ", TakeReason().text));
}

absl::StatusOr<hid_t> OpenDataset(hid_t file, const std::string& path, const std::string& name) {
  EnterLibrary();
  if (!Exists(file, name)) return absl::NotFoundError(absl::StrCat(path, ": no dataset ", name));
  const hid_t id = H5Dopen2(file, name.c_str(), H5P_DEFAULT);
  if (id < 0) return Damaged(path, name, "cannot be opened as a dataset");
  return id;
}

absl::StatusOr<Shape> ShapeOfSpace(hid_t space, const std::string& path, const std::string& name) {
  const int rank = H5Sget_simple_extent_ndims(space);
  if (rank < 0 || H5Sget_simple_extent_type(space) == H5S_NULL)
    return absl::InvalidArgumentError(absl::StrCat(path, ": ", name, ": has no elements"));
  if (rank > Shape::kMaxRank) {
    return absl::InvalidArgumentError(absl::StrCat(path, ": ", name, ": expected at most ",
                                                   Shape::kMaxRank, " dimensions, found ", rank));
  }
  hsize_t sizes[Shape::kMaxRank] = {};
  if (rank > 0) H5Sget_simple_extent_dims(space, sizes, nullptr);
  int64_t elements = 1;
  for (int dim = 0; dim < rank; ++dim) {
    if (sizes[dim] > static_cast<hsize_t>(kMostBytes) ||
        __builtin_mul_overflow(elements, static_cast<int64_t>(sizes[dim]), &elements)) {
      return absl::InvalidArgumentError(absl::StrCat(path, ": ", name, ": is too large"));
    }
  }
  const std::vector<int64_t> signed_sizes(sizes, sizes + rank);
  return Shape(signed_sizes);
}

hid_t NativeType(DType dtype) {
  switch (dtype) {
    case DType::kF32:
      return H5T_NATIVE_FLOAT;
    case DType::kF64:
      return H5T_NATIVE_DOUBLE;
    default:
      return H5T_NATIVE_INT64;
  }
}

}  // namespace

absl::StatusOr<ForeignHdf5File> ForeignHdf5File::Open(const std::string& path) {
  EnterLibrary();
  if (struct stat status; ::stat(path.c_str(), &status) != 0)
    return absl::NotFoundError(absl::StrCat(path, ": no such file"));
  const hid_t file = H5Fopen(path.c_str(), H5F_ACC_RDONLY, H5P_DEFAULT);
  if (file < 0) {
    return absl::DataLossError(absl::StrCat(
        path,
        ": cannot be opened as HDF5 (damaged, cut short or never closed): ", TakeReason().text));
  }
  return ForeignHdf5File(path, file);
}

ForeignHdf5File::ForeignHdf5File(ForeignHdf5File&& other) noexcept
    : path_(std::move(other.path_)), file_(std::exchange(other.file_, -1)) {}

ForeignHdf5File& ForeignHdf5File::operator=(ForeignHdf5File&& other) noexcept {
  if (this == &other) return *this;
  CloseFile();
  path_ = std::move(other.path_);
  file_ = std::exchange(other.file_, -1);
  return *this;
}

ForeignHdf5File::~ForeignHdf5File() { CloseFile(); }

void ForeignHdf5File::CloseFile() {
  EnterLibrary();
  if (file_ >= 0) H5Fclose(std::exchange(file_, -1));
}

bool ForeignHdf5File::Has(const std::string& name) const {
  EnterLibrary();
  return Exists(file_, name);
}

absl::StatusOr<std::vector<std::string>> ForeignHdf5File::DatasetsIn(
    const std::string& group) const {
  EnterLibrary();
  std::vector<std::string> names;
  if (!Exists(file_, group)) return names;
  const herr_t visited = H5Ovisit_by_name2(
      file_, group.c_str(), H5_INDEX_NAME, H5_ITER_INC,
      [](hid_t, const char* name, const H5O_info_t* info, void* out) -> herr_t {
        if (info->type == H5O_TYPE_DATASET)
          static_cast<std::vector<std::string>*>(out)->push_back(name);
        return 0;
      },
      &names, H5O_INFO_BASIC, H5P_DEFAULT);
  if (visited < 0) return Damaged(path_, group, "cannot be listed");
  for (std::string& name : names) name = name == "." ? group : absl::StrCat(group, "/", name);
  std::sort(names.begin(), names.end());
  return names;
}

absl::StatusOr<Shape> ForeignHdf5File::ShapeOf(const std::string& name) const {
  PLAIT_ASSIGN_OR_RETURN(const hid_t id, OpenDataset(file_, path_, name));
  DatasetHandle dataset(id);
  SpaceHandle space(H5Dget_space(id));
  if (!space.ok()) return Damaged(path_, name, "cannot be described");
  return ShapeOfSpace(space.id(), path_, name);
}

absl::StatusOr<Tensor> ForeignHdf5File::Read(const std::string& name, DType dtype) const {
  PLAIT_ASSIGN_OR_RETURN(const Shape shape, ShapeOf(name));
  PLAIT_ASSIGN_OR_RETURN(const hid_t id, OpenDataset(file_, path_, name));
  DatasetHandle dataset(id);
  TypeHandle stored(H5Dget_type(id));
  if (!stored.ok()) return Damaged(path_, name, "cannot be described");
  const H5T_class_t kind = H5Tget_class(stored.id());
  const bool whole = dtype == DType::kI64;
  if (kind != H5T_INTEGER && (whole || kind != H5T_FLOAT)) {
    return absl::InvalidArgumentError(absl::StrCat(path_, ": ", name, ": expected ",
                                                   whole ? "whole " : "", "numbers, found others"));
  }
  if (shape.num_elements() > kMostBytes / static_cast<int64_t>(SizeOf(dtype))) {
    return absl::InvalidArgumentError(
        absl::StrCat(path_, ": ", name, ": ", shape.ToString(), " is larger than 16 GiB"));
  }
  Tensor tensor = Tensor::OnHost(dtype, shape);
  if (shape.num_elements() > 0 &&
      H5Dread(id, NativeType(dtype), H5S_ALL, H5S_ALL, H5P_DEFAULT, tensor.raw()) < 0) {
    return Damaged(path_, name, "cannot be read");
  }
  return tensor;
}

absl::StatusOr<std::optional<double>> ForeignHdf5File::NumberAttribute(
    const std::string& name) const {
  EnterLibrary();
  if (H5Aexists(file_, name.c_str()) <= 0) return std::nullopt;
  const std::string what = absl::StrCat("attribute ", name);
  AttributeHandle attribute(H5Aopen(file_, name.c_str(), H5P_DEFAULT));
  if (!attribute.ok()) return Damaged(path_, what, "cannot be opened");
  TypeHandle stored(H5Aget_type(attribute.id()));
  SpaceHandle space(H5Aget_space(attribute.id()));
  const H5T_class_t kind = H5Tget_class(stored.id());
  if ((kind != H5T_FLOAT && kind != H5T_INTEGER) || H5Sget_simple_extent_npoints(space.id()) != 1) {
    return absl::InvalidArgumentError(absl::StrCat(path_, ": ", what, ": expected one number"));
  }
  double value = 0;
  if (H5Aread(attribute.id(), H5T_NATIVE_DOUBLE, &value) < 0)
    return Damaged(path_, what, "cannot be read");
  return value;
}

absl::StatusOr<std::optional<std::string>> ForeignHdf5File::StringAttribute(
    const std::string& name) const {
  EnterLibrary();
  if (H5Aexists(file_, name.c_str()) <= 0) return std::nullopt;
  const std::string what = absl::StrCat("attribute ", name);
  AttributeHandle attribute(H5Aopen(file_, name.c_str(), H5P_DEFAULT));
  if (!attribute.ok()) return Damaged(path_, what, "cannot be opened");
  TypeHandle stored(H5Aget_type(attribute.id()));
  SpaceHandle space(H5Aget_space(attribute.id()));
  if (H5Tget_class(stored.id()) != H5T_STRING || H5Sget_simple_extent_npoints(space.id()) != 1)
    return absl::InvalidArgumentError(absl::StrCat(path_, ": ", what, ": expected one string"));
  if (H5Tis_variable_str(stored.id()) > 0) {
    TypeHandle memory(H5Tcopy(H5T_C_S1));
    H5Tset_size(memory.id(), H5T_VARIABLE);
    H5Tset_cset(memory.id(), H5Tget_cset(stored.id()));
    char* text = nullptr;
    if (H5Aread(attribute.id(), memory.id(), &text) < 0)
      return Damaged(path_, what, "cannot be read");
    std::string value = text != nullptr ? text : "";
    if (text != nullptr) H5free_memory(text);
    return value;
  }
  const size_t bytes = H5Tget_size(stored.id());
  if (bytes > kMostTextBytes)
    return absl::InvalidArgumentError(absl::StrCat(path_, ": ", what, ": is too long"));
  std::string value(bytes, '\0');
  if (H5Aread(attribute.id(), stored.id(), value.data()) < 0)
    return Damaged(path_, what, "cannot be read");
  const char padding = H5Tget_strpad(stored.id()) == H5T_STR_SPACEPAD ? ' ' : '\0';
  if (padding == '\0') value.resize(std::min(value.find('\0'), value.size()));
  value.resize(value.find_last_not_of(padding) + 1);
  return value;
}

}  // namespace plait
