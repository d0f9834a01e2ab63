#include "base/float_conversion.h"

#include <cmath>
#include <cstring>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/check.h"
#include "base/status_macros.h"

namespace plait {
namespace {

bool IsInfinite(BFloat16 value) { return (value.bits & 0x7fff) == 0x7f80; }
bool IsInfinite(Float16 value) { return (value.bits & 0x7fff) == 0x7c00; }
bool IsInfinite(float value) { return std::isinf(value); }
bool IsInfinite(double value) { return std::isinf(value); }

// Index of the first finite element that became infinite; -1 where there is none.
template <class From, class To>
int64_t Convert(const From* from, To* to, int64_t size) {
  bool overflow = false;  // of To narrower than f32
  for (int64_t i = 0; i < size; ++i) {
    to[i] = static_cast<To>(static_cast<float>(from[i]));
    if constexpr (sizeof(To) < sizeof(float)) {
      overflow |= IsInfinite(to[i]) && !IsInfinite(from[i]);
    }
  }
  if (!overflow) return -1;
  int64_t first = 0;
  while (!IsInfinite(to[first]) || IsInfinite(from[first])) ++first;
  return first;
}

template <class From>
int64_t ConvertTo(const From* from, VectorView to) {
  switch (to.dtype) {
    case DType::kBf16:
      return Convert(from, to.as<BFloat16>(), to.size);
    case DType::kF16:
      return Convert(from, to.as<Float16>(), to.size);
    case DType::kF64:
      return Convert(from, to.as<double>(), to.size);
    default:
      return Convert(from, to.as<float>(), to.size);
  }
}

absl::Status CheckDType(std::string_view name, DType dtype) {
  if (dtype == DType::kBf16 || dtype == DType::kF16 || dtype == DType::kF32) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(
      absl::StrCat(std::string(name), ": expected bf16, f16 or f32, got ", Name(dtype)));
}

float ElementAsFloat(ConstVectorView view, int64_t i) {
  if (view.dtype == DType::kBf16) return static_cast<float>(view.as<BFloat16>()[i]);
  if (view.dtype == DType::kF16) return static_cast<float>(view.as<Float16>()[i]);
  return view.as<float>()[i];
}

}  // namespace

absl::Status ConvertFloats(std::string_view name, int64_t first_element, ConstVectorView from,
                           VectorView to) {
  PLAIT_CHECK_EQ(from.size, to.size);
  PLAIT_RETURN_IF_ERROR(CheckDType(name, from.dtype));
  if (to.dtype != DType::kF64) PLAIT_RETURN_IF_ERROR(CheckDType(name, to.dtype));
  if (from.size == 0) return absl::OkStatus();
  int64_t overflow = -1;
  if (from.dtype == to.dtype) {
    std::memcpy(to.data, from.data, static_cast<size_t>(to.size) * SizeOf(to.dtype));
  } else if (from.dtype == DType::kBf16) {
    overflow = ConvertTo(from.as<BFloat16>(), to);
  } else if (from.dtype == DType::kF16) {
    overflow = ConvertTo(from.as<Float16>(), to);
  } else {
    overflow = ConvertTo(from.as<float>(), to);
  }
  if (overflow < 0) return absl::OkStatus();
  return absl::OutOfRangeError(absl::StrFormat("%s: element %d: %.9g is outside the range of %s",
                                               std::string(name), first_element + overflow,
                                               ElementAsFloat(from, overflow), Name(to.dtype)));
}

}  // namespace plait
