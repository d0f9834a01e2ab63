#include "checkpoint/safetensors_header.h"

#include <simdjson.h>

#include <algorithm>
#include <limits>
#include <nlohmann/json.hpp>
#include <unordered_set>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/status_macros.h"

namespace plait {
namespace {

constexpr char kLfsPointer[] = "version https://git-lfs";
using simdjson::dom::element;

constexpr int64_t kLengthBytes = 8;
constexpr size_t kMaxDepth = 32;
constexpr char kMetadataKey[] = "__metadata__";

struct DTypeEntry {
  const char* name;
  int64_t bits;
};
constexpr DTypeEntry kDTypes[] = {
    {"BOOL", 8},        {"F4", 4},      {"F6_E2M3", 6}, {"F6_E3M2", 6}, {"U8", 8},
    {"I8", 8},          {"F8_E5M2", 8}, {"F8_E4M3", 8}, {"F8_E8M0", 8}, {"F8_E4M3FNUZ", 8},
    {"F8_E5M2FNUZ", 8}, {"I16", 16},    {"U16", 16},    {"F16", 16},    {"BF16", 16},
    {"I32", 32},        {"U32", 32},    {"F32", 32},    {"C64", 64},    {"F64", 64},
    {"I64", 64},        {"U64", 64},
};
static_assert(std::size(kDTypes) == static_cast<size_t>(SafetensorsDType::kU64) + 1);

std::optional<SafetensorsDType> DTypeNamed(std::string_view name) {
  for (size_t i = 0; i < std::size(kDTypes); ++i) {
    if (name == kDTypes[i].name) return static_cast<SafetensorsDType>(i);
  }
  return std::nullopt;
}

absl::Status Error(std::string_view what) {
  return absl::DataLossError(absl::string_view(what.data(), what.size()));
}

absl::StatusOr<int64_t> Count(element value, const char* what) {
  int64_t count = 0;
  if (value.get(count) == simdjson::SUCCESS && count >= 0) return count;
  const std::string found =
      value.is_object() || value.is_array() ? "a list" : simdjson::minify(value);
  return Error(
      absl::StrCat(what, ": expected an integer from 0 to 2^63 - 1, found ", PrintableName(found)));
}

absl::StatusOr<std::vector<int64_t>> Counts(element value, const char* what) {
  simdjson::dom::array array;
  if (value.get(array) != simdjson::SUCCESS)
    return Error(absl::StrCat(what, ": expected an array"));
  std::vector<int64_t> counts;
  for (const element entry : array) {
    PLAIT_ASSIGN_OR_RETURN(const int64_t count, Count(entry, what));
    counts.push_back(count);
  }
  return counts;
}

// Bytes of a tensor, with every product checked.
absl::StatusOr<int64_t> BytesOf(const SafetensorsTensor& tensor) {
  int64_t bits = 1;
  bool overflow = false;
  for (const int64_t size : tensor.shape) overflow |= __builtin_mul_overflow(bits, size, &bits);
  overflow |= __builtin_mul_overflow(bits, BitsOf(tensor.dtype), &bits);
  if (overflow) return Error("shape: its elements have more than 2^63 - 1 bits");
  if (bits % 8 != 0) {
    return Error(
        absl::StrCat("shape: ", bits, " bits of ", Name(tensor.dtype), " do not end at a byte"));
  }
  return bits / 8;
}

// The three fields, each exactly once. Others are ignored, as the format's reader does.
absl::StatusOr<SafetensorsTensor> ParseTensor(std::string_view name, element value) {
  simdjson::dom::object object;
  if (value.get(object) != simdjson::SUCCESS) return Error("expected an object");
  SafetensorsTensor tensor{.name = std::string(name)};
  std::optional<element> dtype, shape, offsets;
  for (const auto& [key, field] : object) {
    std::optional<element>* known = key == "dtype"          ? &dtype
                                    : key == "shape"        ? &shape
                                    : key == "data_offsets" ? &offsets
                                                            : nullptr;
    if (known == nullptr) continue;
    if (known->has_value()) return Error(absl::StrCat(std::string(key), ": occurs twice"));
    *known = field;
  }
  if (!dtype) return Error("has no dtype");
  if (!shape) return Error("has no shape");
  if (!offsets) return Error("has no data_offsets");
  std::string_view dtype_name;
  if (dtype->get(dtype_name) != simdjson::SUCCESS) return Error("dtype: expected a text");
  const std::optional<SafetensorsDType> known = DTypeNamed(dtype_name);
  if (!known) return Error(absl::StrCat("dtype: unknown: ", PrintableName(dtype_name)));
  tensor.dtype = *known;
  PLAIT_ASSIGN_OR_RETURN(tensor.shape, Counts(*shape, "shape"));
  PLAIT_ASSIGN_OR_RETURN(const std::vector<int64_t> range, Counts(*offsets, "data_offsets"));
  if (range.size() != 2) {
    return Error(absl::StrCat("data_offsets: expected 2 numbers, found ", range.size()));
  }
  tensor.begin = range[0];
  tensor.end = range[1];
  PLAIT_ASSIGN_OR_RETURN(const int64_t bytes, BytesOf(tensor));
  if (tensor.end < tensor.begin || tensor.end - tensor.begin != bytes) {
    return Error(absl::StrCat("data_offsets: [", tensor.begin, ", ", tensor.end, "] are not the ",
                              bytes, " bytes of its shape and dtype"));
  }
  return tensor;
}

absl::Status ParseMetadata(element value, std::map<std::string, std::string>& metadata) {
  if (value.is_null()) return absl::OkStatus();
  simdjson::dom::object object;
  if (value.get(object) != simdjson::SUCCESS) return Error("expected an object");
  for (const auto& [key, entry] : object) {
    std::string_view text;
    if (entry.get(text) != simdjson::SUCCESS) {
      return Error(absl::StrCat(PrintableName(key), ": expected a text"));
    }
    if (!metadata.emplace(key, text).second) {
      return Error(absl::StrCat(PrintableName(key), ": occurs twice"));
    }
  }
  return absl::OkStatus();
}

// The tensors lie one after the other from 0 to `data_bytes`.
absl::Status CheckPlaces(const std::vector<SafetensorsTensor>& tensors, int64_t data_bytes) {
  int64_t end = 0;
  for (const SafetensorsTensor& tensor : tensors) {
    if (tensor.begin != end) {
      return Error(absl::StrCat(PrintableName(tensor.name), ": begins at byte ", tensor.begin,
                                tensor.begin < end ? ", inside the tensor before it, which ends at "
                                                   : ", the tensor before it ends at ",
                                end));
    }
    end = tensor.end;
  }
  if (end == data_bytes) return absl::OkStatus();
  return Error(absl::StrCat("its tensors have ", end, " bytes, the file has ", data_bytes,
                            " after the header", end > data_bytes ? ": cut short" : ""));
}

absl::StatusOr<SafetensorsHeader> ParseJson(std::string_view json, int64_t data_bytes) {
  if (json.empty() || json.front() != '{') return Error("its header does not begin with '{'");
  const size_t last = json.find_last_not_of(' ');
  if (json[last] != '}') return Error("its header does not end with '}' and spaces");
  simdjson::dom::parser parser;
  simdjson::dom::object root;
  simdjson::error_code error = parser.allocate(last + 1, kMaxDepth);
  if (!error) error = parser.parse(json.data(), last + 1).get(root);
  if (error) {
    return Error(absl::StrCat("its header is not JSON: ", simdjson::error_message(error)));
  }
  SafetensorsHeader header;
  std::unordered_set<std::string_view> names;
  for (const auto& [key, value] : root) {
    if (!names.insert(key).second) {
      return Error(absl::StrCat(PrintableName(key), ": the name occurs twice"));
    }
    if (key == kMetadataKey) {
      PLAIT_RETURN_IF_ERROR(Annotate(ParseMetadata(value, header.metadata), kMetadataKey));
      continue;
    }
    absl::StatusOr<SafetensorsTensor> tensor = ParseTensor(key, value);
    if (!tensor.ok()) return Annotate(tensor.status(), PrintableName(key));
    header.tensors.push_back(*std::move(tensor));
  }
  std::sort(header.tensors.begin(), header.tensors.end(),
            [](const SafetensorsTensor& a, const SafetensorsTensor& b) {
              return std::tie(a.begin, a.end, a.name) < std::tie(b.begin, b.end, b.name);
            });
  PLAIT_RETURN_IF_ERROR(CheckPlaces(header.tensors, data_bytes));
  return header;
}

absl::StatusOr<SafetensorsHeader> Parse(std::string_view file) {
  if (file.size() < kLengthBytes) {
    return Error(absl::StrCat("expected at least 8 bytes, found ", file.size()));
  }
  if (file.substr(0, sizeof(kLfsPointer) - 1) == kLfsPointer) {
    return Error("is a Git LFS pointer; fetch the file that it stands for (git lfs pull)");
  }
  uint64_t length = 0;
  for (int i = kLengthBytes - 1; i >= 0; --i) {
    length = length << 8 | static_cast<uint8_t>(file[static_cast<size_t>(i)]);
  }
  if (length > static_cast<uint64_t>(kMaxSafetensorsHeaderBytes)) {
    return Error(absl::StrCat("its header has ", length, " bytes, more than the ",
                              kMaxSafetensorsHeaderBytes, " allowed"));
  }
  const auto data_offset = static_cast<size_t>(kLengthBytes) + static_cast<size_t>(length);
  if (data_offset > file.size()) {
    return Error(absl::StrCat("its header has ", length, " bytes, the file ", file.size()));
  }
  PLAIT_ASSIGN_OR_RETURN(SafetensorsHeader header,
                         ParseJson(file.substr(kLengthBytes, static_cast<size_t>(length)),
                                   static_cast<int64_t>(file.size() - data_offset)));
  header.data_offset = static_cast<int64_t>(data_offset);
  return header;
}

}  // namespace

const char* Name(SafetensorsDType dtype) { return kDTypes[static_cast<size_t>(dtype)].name; }

int64_t BitsOf(SafetensorsDType dtype) { return kDTypes[static_cast<size_t>(dtype)].bits; }

SafetensorsDType SafetensorsDTypeFor(DType dtype) {
  switch (dtype) {
    case DType::kBf16:
      return SafetensorsDType::kBf16;
    case DType::kF16:
      return SafetensorsDType::kF16;
    case DType::kF32:
      return SafetensorsDType::kF32;
    case DType::kF64:
      return SafetensorsDType::kF64;
    case DType::kI32:
      return SafetensorsDType::kI32;
    case DType::kI64:
      return SafetensorsDType::kI64;
  }
  return SafetensorsDType::kF32;
}

std::optional<DType> DTypeFor(SafetensorsDType dtype) {
  for (const DType candidate :
       {DType::kBf16, DType::kF16, DType::kF32, DType::kF64, DType::kI32, DType::kI64}) {
    if (SafetensorsDTypeFor(candidate) == dtype) return candidate;
  }
  return std::nullopt;
}

absl::StatusOr<SafetensorsHeader> ParseSafetensorsHeader(std::string_view file,
                                                         const std::string& path) {
  absl::StatusOr<SafetensorsHeader> header = Parse(file);
  if (!header.ok()) return Annotate(header.status(), path);
  return header;
}

SafetensorsHeader MakeSafetensorsHeader(std::vector<SafetensorsTensor> tensors,
                                        std::map<std::string, std::string> metadata) {
  std::sort(tensors.begin(), tensors.end(),
            [](const SafetensorsTensor& a, const SafetensorsTensor& b) {
              return a.dtype != b.dtype ? a.dtype > b.dtype : a.name < b.name;
            });
  int64_t end = 0;
  for (SafetensorsTensor& tensor : tensors) {
    const absl::StatusOr<int64_t> bytes = BytesOf(tensor);
    PLAIT_CHECK(bytes.ok());
    tensor.begin = end;
    tensor.end = end + *bytes;
    end = tensor.end;
  }
  SafetensorsHeader header{std::move(tensors), std::move(metadata)};
  header.data_offset = static_cast<int64_t>(SafetensorsHeaderBytes(header).size());
  return header;
}

std::string SafetensorsHeaderBytes(const SafetensorsHeader& header) {
  auto json = nlohmann::ordered_json::object();
  if (!header.metadata.empty()) json[kMetadataKey] = header.metadata;
  std::string text = json.dump();
  text.pop_back();
  for (const SafetensorsTensor& tensor : header.tensors) {
    const nlohmann::ordered_json value = {{"dtype", Name(tensor.dtype)},
                                          {"shape", tensor.shape},
                                          {"data_offsets", {tensor.begin, tensor.end}}};
    absl::StrAppend(&text, text.size() > 1 ? "," : "", nlohmann::json(tensor.name).dump(), ":",
                    value.dump());
  }
  text.push_back('}');
  text.resize((text.size() + 7) / 8 * 8, ' ');
  std::string bytes;
  for (int i = 0; i < kLengthBytes; ++i) bytes.push_back(static_cast<char>(text.size() >> (8 * i)));
  return bytes + text;
}

std::string PrintableName(std::string_view name) {
  constexpr size_t kMaxBytes = 160;
  const std::string shown =
      absl::Utf8SafeCHexEscape(absl::string_view(name.data(), std::min(name.size(), kMaxBytes)));
  return name.size() > kMaxBytes ? absl::StrCat(shown, "...") : shown;
}

}  // namespace plait
