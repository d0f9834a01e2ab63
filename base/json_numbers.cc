#include "base/json_numbers.h"

#include <cstddef>

namespace plait {
namespace {

constexpr size_t kDigits = 20;  // of the largest 64-bit integer

bool IsDigit(char c) { return c >= '0' && c <= '9'; }

// The end of the string that begins at `begin` with its quote.
size_t EndOfString(std::string_view json, size_t begin) {
  for (size_t i = begin + 1; i < json.size(); ++i) {
    if (json[i] == '\\') {
      ++i;
    } else if (json[i] == '"') {
      return i + 1;
    }
  }
  return json.size();
}

// The length of a name of what is not finite at the beginning; 0 where there is none.
size_t LengthOfNotFinite(std::string_view json) {
  for (const std::string_view name : {"NaN", "Infinity", "-Infinity"}) {
    if (json.substr(0, name.size()) == name) return name.size();
  }
  return 0;
}

}  // namespace

std::string WithReadableNumbers(std::string_view json, NotFinite not_finite) {
  std::string text;
  text.reserve(json.size() + 16);
  for (size_t i = 0; i < json.size();) {
    size_t end = i + 1;
    if (json[i] == '"') {
      end = EndOfString(json, i);
    } else if (IsDigit(json[i])) {
      while (end < json.size() && IsDigit(json[end])) ++end;
      const bool goes_on = end < json.size() && (json[end] == '.' || (json[end] | 0x20) == 'e');
      const bool is_fraction = i > 0 && (json[i - 1] == '.' || json[i - 1] == '+');
      if (end - i >= kDigits && !goes_on && !is_fraction) {
        text += json.substr(i, end - i);
        text += ".0";
        i = end;
        continue;
      }
    } else if (const size_t length = LengthOfNotFinite(json.substr(i));
               length > 0 && not_finite == NotFinite::kNull) {
      text += "null";
      i += length;
      continue;
    }
    text += json.substr(i, end - i);
    i = end;
  }
  return text;
}

}  // namespace plait
