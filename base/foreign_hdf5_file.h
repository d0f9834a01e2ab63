// ForeignHdf5File: reads HDF5 files that other programs wrote (h5py): datasets of any rank, layout,
// byte order and built-in compression, scalars, and attributes of either string kind. hdf5_file.h
// is for plait's own files. Errors name the file and the object: NotFound (no such file, dataset or
// attribute), InvalidArgument (numbers of another kind, another rank, too large), DataLoss (not
// HDF5, damaged).
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/dtype.h"
#include "base/shape.h"
#include "base/tensor.h"

namespace plait {

class ForeignHdf5File {
 public:
  static absl::StatusOr<ForeignHdf5File> Open(const std::string& path);
  ForeignHdf5File(ForeignHdf5File&& other) noexcept;
  ForeignHdf5File& operator=(ForeignHdf5File&& other) noexcept;
  ~ForeignHdf5File();

  const std::string& path() const { return path_; }
  bool Has(const std::string& name) const;
  // Full names of the datasets in the group and below it, in byte order; none where there is no
  // such group.
  absl::StatusOr<std::vector<std::string>> DatasetsIn(const std::string& group) const;
  // A scalar has rank 0.
  absl::StatusOr<Shape> ShapeOf(const std::string& name) const;
  // The whole dataset as a host tensor. dtype kF32 or kF64 takes numbers of any kind, kI64 whole
  // ones; a value that does not fit is the library's nearest. At most 16 GiB.
  absl::StatusOr<Tensor> Read(const std::string& name, DType dtype) const;

  // Attributes of the file itself; absent ones are nullopt. A number may be real or whole, a scalar
  // or an array of one.
  absl::StatusOr<std::optional<double>> NumberAttribute(const std::string& name) const;
  // Variable or fixed length, UTF-8 or ASCII.
  absl::StatusOr<std::optional<std::string>> StringAttribute(const std::string& name) const;

 private:
  ForeignHdf5File(std::string path, int64_t file) : path_(std::move(path)), file_(file) {}
  void CloseFile();

  std::string path_;
  int64_t file_ = -1;  // the library's identifier
};

}  // namespace plait
