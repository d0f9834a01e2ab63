// The header of a safetensors file: 8 bytes, the little-endian length n of the JSON text; n bytes
// of JSON, an object from tensor name to {"dtype", "shape", "data_offsets": [begin, end)}, offsets
// relative to the first byte after the header, and "__metadata__", texts by name; then the tensors'
// bytes: little-endian, row-major, without holes or overlaps. Source: github.com/huggingface/
// safetensors, version 0.8; what that reader refuses is refused here, and also a name that occurs
// twice (of which it takes the last) and anything but spaces around the JSON text.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/dtype.h"

namespace plait {

inline constexpr int64_t kMaxSafetensorsHeaderBytes = 100'000'000;

// Element types of the format, in the order in which its writer sorts them.
enum class SafetensorsDType : uint8_t {
  kBool,
  kF4,
  kF6E2M3,
  kF6E3M2,
  kU8,
  kI8,
  kF8E5M2,
  kF8E4M3,
  kF8E8M0,
  kF8E4M3Fnuz,
  kF8E5M2Fnuz,
  kI16,
  kU16,
  kF16,
  kBf16,
  kI32,
  kU32,
  kF32,
  kC64,
  kF64,
  kI64,
  kU64,
};

const char* Name(SafetensorsDType dtype);  // "BF16", as in files
int64_t BitsOf(SafetensorsDType dtype);
SafetensorsDType SafetensorsDTypeFor(DType dtype);
// Absent where plait has no such element type.
std::optional<DType> DTypeFor(SafetensorsDType dtype);

struct SafetensorsTensor {
  std::string name;
  SafetensorsDType dtype = SafetensorsDType::kF32;
  std::vector<int64_t> shape;  // empty: a scalar
  int64_t begin = 0;           // bytes after the header
  int64_t end = 0;
};

struct SafetensorsHeader {
  std::vector<SafetensorsTensor> tensors;  // by place in the file
  std::map<std::string, std::string> metadata;
  int64_t data_offset = 0;  // of the first byte after the header
};

// file: the whole file's bytes, of which the header alone is read. Every tensor lies in it.
// DataLoss, one line that begins with `path` and names the tensor.
absl::StatusOr<SafetensorsHeader> ParseSafetensorsHeader(std::string_view file,
                                                         const std::string& path);

// The header that lays out the tensors as the format's own writer does: by descending dtype, then
// by name. `begin` and `end` of the given ones mean nothing; names are distinct.
SafetensorsHeader MakeSafetensorsHeader(std::vector<SafetensorsTensor> tensors,
                                        std::map<std::string, std::string> metadata);

// The file's bytes before the data: length and JSON, padded with spaces to a multiple of 8.
std::string SafetensorsHeaderBytes(const SafetensorsHeader& header);

// A name out of a file as part of a one-line message: printable, of bounded length.
std::string PrintableName(std::string_view name);

}  // namespace plait
