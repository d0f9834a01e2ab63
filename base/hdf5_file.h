// Hdf5File: one HDF5 file, written once and then only read. With foreign_hdf5_file.h the sole owner
// of the HDF5 library (serial C interface).
//  * Datasets are flat (one dimension); a logical shape is an attribute of the caller's. Names may
//  contain '/': groups are
//    made as needed. bf16 and f16 are stored as u16 with the attribute plait_dtype = "bf16", "f16".
//  * No times are stored: the same content written in the same order gives the same bytes.
//  * Files are written in the newest format, which marks a file as open for writing: one that a
//  killed process left
//    behind refuses to open.
//  * After any failed write the file is dead: every later call returns that error, and neither
//  Close nor the destructor
//    enters the library again, for H5Fclose after a failed write can hang or crash. Remove the file
//    and, where the disk is full, leave. The library's exit handler is off for the same reason: a
//    file not closed by Close is not complete.
//  * The library's own error printing is silenced; its innermost reason is part of the Status.
// Errors name the file and the dataset: NotFound (no such file, dataset or attribute),
// AlreadyExists, InvalidArgument (another type, a range outside), DataLoss (not HDF5, damaged,
// checksum mismatch), ResourceExhausted (disk, quota or file-size limit full), Unavailable (any
// other failed write); where a file cannot be created, or no more files can be open, those of
// SystemError.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/dtype.h"

namespace plait {

enum class Hdf5Type { kBf16, kF16, kF32, kF64, kU8, kU16, kU32, kI32, kI64 };

int64_t SizeOf(Hdf5Type type);
const char* Name(Hdf5Type type);

// The dataset type that holds tensors of `dtype`.
Hdf5Type Hdf5TypeFor(DType dtype);

template <class T>
struct Hdf5TypeOf;
#define PLAIT_HDF5_TYPE(type, constant)                   \
  template <>                                             \
  struct Hdf5TypeOf<type> {                               \
    static constexpr Hdf5Type value = Hdf5Type::constant; \
  };
PLAIT_HDF5_TYPE(BFloat16, kBf16)
PLAIT_HDF5_TYPE(Float16, kF16)
PLAIT_HDF5_TYPE(float, kF32)
PLAIT_HDF5_TYPE(double, kF64)
PLAIT_HDF5_TYPE(uint8_t, kU8)
PLAIT_HDF5_TYPE(uint16_t, kU16)
PLAIT_HDF5_TYPE(uint32_t, kU32)
PLAIT_HDF5_TYPE(int32_t, kI32)
PLAIT_HDF5_TYPE(int64_t, kI64)
#undef PLAIT_HDF5_TYPE

enum class Hdf5Layout {
  kContiguous,           // one run of bytes in the file, for mmap
  kChunkedWithChecksum,  // chunks of 1 MiB, each with a Fletcher32 sum checked on every read
};

struct Hdf5Dataset {
  std::string name;
  Hdf5Type type = Hdf5Type::kF32;
  int64_t num_elements = 0;
};

class Hdf5File {
 public:
  // A new file, open for writing. AlreadyExists where there is one.
  static absl::StatusOr<Hdf5File> Create(const std::string& path);
  // An existing file, for reading only.
  static absl::StatusOr<Hdf5File> Open(const std::string& path);

  Hdf5File() = default;
  Hdf5File(Hdf5File&& other) noexcept;
  Hdf5File& operator=(Hdf5File&& other) noexcept;
  // Closes a file opened for reading. A file being written is closed too, but its errors are lost:
  // call Close.
  ~Hdf5File();

  // Writes out everything and closes. The file's bytes still are in the system's cache: see
  // SyncFile.
  absl::Status Close();

  // A dataset of `num_elements`, to be filled by WriteRange.
  absl::Status CreateDataset(const std::string& name, Hdf5Type type, int64_t num_elements,
                             Hdf5Layout layout);
  // Elements [begin, begin + count) from `data`.
  absl::Status WriteRange(const std::string& name, Hdf5Type type, int64_t begin, int64_t count,
                          const void* data);
  // Both at once.
  absl::Status WriteDataset(const std::string& name, Hdf5Type type, int64_t num_elements,
                            const void* data, Hdf5Layout layout);
  template <class T>
  absl::Status Write(const std::string& name, std::span<const T> values, Hdf5Layout layout) {
    return WriteDataset(name, Hdf5TypeOf<T>::value, static_cast<int64_t>(values.size()),
                        values.data(), layout);
  }

  // Attributes of the dataset or group `object`; "/" is the file itself. Each is set once.
  absl::Status SetAttribute(const std::string& object, const std::string& name, int64_t value);
  absl::Status SetAttribute(const std::string& object, const std::string& name, double value);
  absl::Status SetAttribute(const std::string& object, const std::string& name,
                            std::string_view value);
  // At least one value.
  absl::Status SetAttribute(const std::string& object, const std::string& name,
                            std::span<const int64_t> values);

  // Every dataset of the file, by name in byte order, without a leading '/'.
  absl::StatusOr<std::vector<Hdf5Dataset>> Datasets() const;
  absl::StatusOr<Hdf5Dataset> Describe(const std::string& name) const;
  // Elements [begin, begin + count) into `data`. The type must be the stored one.
  absl::Status ReadRange(const std::string& name, Hdf5Type type, int64_t begin, int64_t count,
                         void* data) const;
  template <class T>
  absl::StatusOr<std::vector<T>> Read(const std::string& name) const {
    absl::StatusOr<Hdf5Dataset> dataset = Describe(name);
    if (!dataset.ok()) return std::move(dataset).status();
    std::vector<T> values(static_cast<size_t>(dataset->num_elements));
    absl::Status status =
        ReadRange(name, Hdf5TypeOf<T>::value, 0, dataset->num_elements, values.data());
    if (!status.ok()) return status;
    return values;
  }
  // Where a contiguous dataset's first byte lies in the file, on no particular alignment. Empty
  // datasets have no place: 0. FailedPrecondition for chunked ones. Also while the file is being
  // written.
  absl::StatusOr<int64_t> ContiguousOffset(const std::string& name) const;

  absl::StatusOr<int64_t> IntegerAttribute(const std::string& object,
                                           const std::string& name) const;
  absl::StatusOr<std::vector<int64_t>> IntegersAttribute(const std::string& object,
                                                         const std::string& name) const;
  absl::StatusOr<double> RealAttribute(const std::string& object, const std::string& name) const;
  absl::StatusOr<std::string> StringAttribute(const std::string& object,
                                              const std::string& name) const;

  const std::string& path() const { return path_; }

 private:
  enum class Mode { kClosed, kReading, kWriting };

  absl::Status CheckMode(Mode mode) const;
  absl::Status WriteFailed(const std::string& what);
  absl::Status SetAttributeOfType(const std::string& object, const std::string& name,
                                  int64_t type_id, int64_t count, const void* data);
  void CloseQuietly();

  std::string path_;
  int64_t file_ = -1;  // the library's identifier
  Mode mode_ = Mode::kClosed;
  absl::Status failure_;  // the first failed write
};

std::string Hdf5LibraryVersion();  // "1.10.8"

}  // namespace plait
